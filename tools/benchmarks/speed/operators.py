"""Times of the operators of the 1-bit network in OpenVINO, and the machine's limit for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmesbnn.deploy.openvino.graph import compile_graph

from .classifier import Classifier
from .limit import machine_limit
from .names import BITS


def kernel_shares(graph: Any, shape: tuple[int, int, int], runs: int) -> dict[str, float]:
    """Measure the time of every kind of operator in ms, on one core with one image.

    Of each operator the fastest of several runs counts, so that other processes disturb the
    result less.
    """
    graph = graph.clone()
    graph.reshape([1, *shape])
    request = compile_graph(graph, 1, PERF_COUNT='YES').create_infer_request()
    x = torch.randn(1, *shape).numpy()
    least: dict[tuple[str, str], float] = {}
    for _ in range(runs):
        request.infer([x])
        for counter in request.profiling_info:
            key = counter.node_name, counter.node_type
            spent = 1e3 * counter.real_time.total_seconds()
            least[key] = min(spent, least.get(key, spent))
    shares: dict[str, float] = {}
    for (_, kind), spent in least.items():
        shares[kind] = shares.get(kind, 0.0) + spent
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def report_kernels(network: Classifier, folder: Path, runs: int, seconds: float) -> dict[str, Any]:
    """Print and return the times of the operators and their ratios to the machine's limit.

    Args:
        network: The classifier.
        folder: Folder for a compiled library.
        runs: Number of runs of the network.
        seconds: Time for the machine's limit.
    """
    shares = kernel_shares(network.graphs[BITS], network.shape, runs)
    total, binary = sum(shares.values()), shares.get('BinaryConvolution', 0.0)
    macs = sum(layer.macs for layer in network.layers if layer.binary)
    rate, how = machine_limit(folder, seconds)
    limit = 1e3 * macs / rate
    print(f'\ntime by operator (1 core, batch 1, {total:.1f} ms in operators)')
    for kind, spent in list(shares.items())[:8]:
        print(f'  {kind:<20}{spent:>8.2f} ms {100 * spent / total:>6.1f} %')
    print(
        f'binary kernels: {macs / 1e9:.2f} G multiplications in {binary:.2f} ms, '
        f'{macs / binary / 1e9:.2f} T/s; this core can do {rate / 1e12:.2f} T/s '
        f'({how}), that is {limit:.2f} ms: they take {binary / limit:.2f} x as long, '
        f'the whole network {total / limit:.2f} x'
    )
    return dict(
        operators_ms=shares,
        binary_share=binary / total,
        binary_macs=macs,
        limit_macs_per_s=rate,
        limit_measured_by=how,
        limit_ms=limit,
    )
