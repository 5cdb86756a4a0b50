"""Measure the latency of a binary network and of its rivals in one process.

    python tools/benchmarks/latency.py [--out DIR] [--quick] [--config CONFIG]

The contenders run in turn, on one core and on all, with batches of 1 and 16: the network as
the published code computes it, the eager model, torch.compile, OpenVINO in full precision,
OpenVINO with 1-bit layers, the native engine, ONNX Runtime, and MobileNetV3-Large and
ResNet-18 of mmpretrain in OpenVINO. The script prints medians and ratios, the effect of
batches and cores on both engines of a Runner, the time of every kind of operator in the 1-bit
network, and how much longer its binary kernels take than a loop of xor and popcount on this
machine. Weights are random; thresholds, slopes and statistics are drawn so that nothing is
trivially equal. Saves DIR/latency.json and latency.png.

On a machine that is busy with other work, the ratios mean little.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from mmesbnn import cli, options  # before the slow imports

# isort: split

import numpy as np
import torch
from published_style import published_style
from runner_ratios import report, runs_natively, write_export
from torch import Tensor, nn

import mmesbnn
from mmesbnn.analysis import build_model, load_config, save_json
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime.engine import usable_cores
from mmesbnn.native.engine import aligned
from mmesbnn.optional import require
from mmesbnn.whole_files import check_place, whole_file

SIZE = 224
PUBLISHED, EAGER, COMPILED = 'published style, eager', 'ours, eager', 'torch.compile'
FLOAT, BITS, ONNX = 'OpenVINO fp32', 'OpenVINO 1-bit', 'ONNX Runtime fp32'
NATIVE = 'native 1-bit'
RIVALS = {
    'MobileNetV3-Large, OpenVINO fp32': 'mobilenet-v3-large_8xb128_in1k',
    'ResNet-18, OpenVINO fp32': 'resnet18_8xb32_in1k',
}
CONTENDERS = (PUBLISHED, EAGER, COMPILED, FLOAT, BITS, NATIVE, ONNX, *RIVALS)

Run = Callable[[], Any]


# ------------------------------------------------------------------ contenders


def torch_run(model: nn.Module, x: Tensor) -> Run:
    """Return a function that runs one forward pass."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def compiled_run(model: nn.Module, x: Tensor) -> Run:
    """Return a function that runs the compiled model, with a fixed number of threads."""
    torch._dynamo.reset()
    compiled = torch.compile(model)

    def run() -> Tensor:
        with torch.no_grad():
            return compiled(x)

    return run


def openvino_run(graph: Any, x: Tensor, threads: int) -> Run:
    """Return a function that runs one inference in OpenVINO."""
    from mmesbnn.deploy.openvino.graph import compile_graph

    graph = graph.clone()
    graph.reshape(list(x.shape))
    request = compile_graph(graph, threads, PERFORMANCE_HINT='LATENCY').create_infer_request()
    request.set_input_tensor(_shared(x))
    return request.infer


def _shared(x: Tensor) -> Any:
    import openvino as ov

    return ov.Tensor(np.ascontiguousarray(x.numpy()))


def float_graph(model: nn.Module) -> Any:
    """Convert the model to OpenVINO as it is, in full precision."""
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        example = torch.randn(1, 3, SIZE, SIZE)
        return ov.convert_model(model, example_input=example)


def onnx_file(model: nn.Module, folder: Path) -> Path | None:
    """Write the model as ONNX; return None if onnx or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    path = folder / 'model.onnx'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model,
            (torch.randn(1, 3, SIZE, SIZE),),
            str(path),
            dynamo=False,
            input_names=['x'],
            dynamic_axes={'x': {0: 'n'}},
        )
    return path


def onnx_run(path: Path, x: Tensor, threads: int) -> Run:
    """Return a function that runs one inference in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    inputs = {'x': x.numpy()}
    return lambda: session.run(None, inputs)


def native_run(export: Path, x: Tensor, threads: int) -> Run | None:
    """Return a function that runs the native engine once; None if it does not run here."""
    if not runs_natively(export):
        return None
    runner = Runner(export, engine='native', threads=threads)
    array = x.numpy()
    return lambda: runner.infer(array)


class Networks:
    """Convert the contenders once and keep them.

    Args:
        config: The binary network's config.
        contenders: Names of the contenders to prepare.
        folder: For temporary files.
        compile_batches: If true, torch.compile also compiles for batches larger than 1.
    """

    def __init__(
        self, config: str, contenders: list[str], folder: Path, compile_batches: bool
    ) -> None:
        from mmesbnn.deploy.openvino.graph import to_openvino

        self.compile_batches = compile_batches
        model = build_model(load_config(config))
        self.model = lifelike(model, torch.randn(2, 3, SIZE, SIZE))
        self.published = published_style(self.model)
        example = torch.randn(1, 3, SIZE, SIZE)
        conversion = to_openvino(self.model, [example], dynamic_batch=True, with_native=True)
        self.export = folder / 'export'
        self.export.mkdir()
        write_export(self.export, conversion)
        self.layers = conversion.layers
        self.graphs = {BITS: conversion.graph}
        if FLOAT in contenders:
            self.graphs[FLOAT] = float_graph(self.published)
        for name, rival in RIVALS.items():
            if name in contenders:
                self.graphs[name] = float_graph(_rival(rival))
        self.onnx = onnx_file(self.published, folder) if ONNX in contenders else None

    def make(self, name: str, x: Tensor, threads: int) -> Run | None:
        """Return a function that runs a contender once on ``x``, or None if it cannot run."""
        if name in self.graphs:
            return openvino_run(self.graphs[name], x, threads)
        if name == NATIVE:
            return native_run(self.export, x, threads)
        if name == ONNX:
            return None if self.onnx is None else onnx_run(self.onnx, x, threads)
        if name == COMPILED and len(x) > 1 and not self.compile_batches:
            return None
        model = self.published if name == PUBLISHED else self.model
        return (compiled_run if name == COMPILED else torch_run)(model, x)


def _rival(name: str) -> nn.Module:
    from mmpretrain import get_model

    return get_model(name, pretrained=False).eval()


# ------------------------------------------------------------------ measuring


def measure(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Measure the times of every contender in ms.

    Args:
        runs: The contenders.
        seconds: Total time of each contender. The contenders take turns; each runs at
            least 3 and at most 100 times.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    while True:
        open_ = [
            name
            for name, taken in times.items()
            if len(taken) < 3 or (sum(taken) < 1e3 * seconds and len(taken) < 100)
        ]
        if not open_:
            return times
        for name in open_:
            begin = time.perf_counter()
            runs[name]()
            times[name].append(1e3 * (time.perf_counter() - begin))


def kernel_shares(graph: Any, runs: int) -> dict[str, float]:
    """Measure the time of every kind of operator in ms, on one core with one image.

    Of each operator the fastest of several runs counts, so that other processes disturb the
    result less.
    """
    from mmesbnn.deploy.openvino.graph import compile_graph

    graph = graph.clone()
    graph.reshape([1, 3, SIZE, SIZE])
    request = compile_graph(graph, 1, PERF_COUNT='YES').create_infer_request()
    x = torch.randn(1, 3, SIZE, SIZE).numpy()
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


XOR_POPCOUNT = """
#include <stdint.h>
#ifdef __AVX512VPOPCNTDQ__
#include <immintrin.h>
#endif
/* Multiply one input with four weights at a time, 512 words each. All data stay in the first
   cache, and each load of an input serves four sums, as in a convolution. */
uint64_t plain(const uint64_t *x, const uint64_t *w, long repeats) {
    uint64_t sums[4] = {0, 0, 0, 0};
    for (long r = 0; r < repeats; ++r) {
        uint64_t a = 0, b = 0, c = 0, d = 0;
        for (int i = 0; i < 512; ++i) {
            uint64_t v = x[i] ^ (uint64_t)r;
            a += __builtin_popcountll(v ^ w[i]);
            b += __builtin_popcountll(v ^ w[512 + i]);
            c += __builtin_popcountll(v ^ w[1024 + i]);
            d += __builtin_popcountll(v ^ w[1536 + i]);
        }
        sums[0] += a; sums[1] += b; sums[2] += c; sums[3] += d;
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}
/* The same result with one popcount for two words, as in a row of full adders. A sum bit is the
   xor of all words so far, which is linear: the prefix xors of inputs and of weights are made
   once, so they are data here. xp and wp: the xor of the words up to each second vector. */
#ifdef __AVX512VPOPCNTDQ__
uint64_t prefix(const uint64_t *x, const uint64_t *w, const uint64_t *xp, const uint64_t *wp,
                long repeats) {
    __m512i twos[4], ones[4];
    for (int k = 0; k < 4; ++k) twos[k] = ones[k] = _mm512_setzero_si512();
    for (long r = 0; r < repeats; ++r) {
        __m512i parity[4], turn = _mm512_set1_epi64(r);
        for (int k = 0; k < 4; ++k) parity[k] = _mm512_setzero_si512();
        for (int i = 0; i < 32; ++i) {
            __m512i v = _mm512_xor_si512(_mm512_loadu_si512(x + 16 * i), turn);
            __m512i p = _mm512_loadu_si512(xp + 8 * i);
            #pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                __m512i a = _mm512_xor_si512(v, _mm512_loadu_si512(w + 512 * k + 16 * i));
                __m512i n = _mm512_xor_si512(p, _mm512_loadu_si512(wp + 256 * k + 8 * i));
                /* of the parity before, a, and the second word: whether two of them are 1 */
                __m512i carry = _mm512_ternarylogic_epi64(parity[k], a, n, 0xd4);
                twos[k] = _mm512_add_epi64(twos[k], _mm512_popcnt_epi64(carry));
                parity[k] = n;
            }
        }
        for (int k = 0; k < 4; ++k)
            ones[k] = _mm512_add_epi64(ones[k], _mm512_popcnt_epi64(parity[k]));
    }
    uint64_t sum = 0;
    for (int k = 0; k < 4; ++k)
        sum += _mm512_reduce_add_epi64(ones[k]) + 2 * _mm512_reduce_add_epi64(twos[k]);
    return sum;
}
#endif
"""


def _compiled_rate(folder: Path, seconds: float) -> float | None:
    """Measure binary multiplications per second in C; None without a compiler."""
    compiler = shutil.which(os.environ.get('CC', 'cc')) or shutil.which('gcc')
    if compiler is None:
        return None
    source, library = folder / 'limit.c', folder / 'limit.so'
    source.write_text(XOR_POPCOUNT)
    command = [
        compiler,
        '-O3',
        '-march=native',
        '-mprefer-vector-width=512',
        '-shared',
        '-fPIC',
        str(source),
        '-o',
        str(library),
    ]
    done = subprocess.run(command, capture_output=True)
    if done.returncode:  # another compiler or processor
        command.remove('-mprefer-vector-width=512')
        done = subprocess.run(command, capture_output=True)
    if done.returncode:
        return None
    loops = ctypes.CDLL(str(library))
    words = np.random.default_rng(0).integers(0, 2**63, (5, 512), np.uint64)
    # the xor of each two vectors of eight words, then of all pairs so far
    pairs = np.bitwise_xor.reduce(words.reshape(5, 32, 2, 8), axis=2)
    prefixes = np.bitwise_xor.accumulate(pairs, axis=1)
    arrays = [_aligned(x) for x in (words[0], words[1:], prefixes[0], prefixes[1:])]
    rates = [_loop_rate(loops.plain, arrays[:2], seconds)]
    if hasattr(loops, 'prefix'):
        rates.append(_loop_rate(loops.prefix, arrays, seconds))
    return max(rates)


def _aligned(array: np.ndarray) -> np.ndarray:
    """Copy an array to memory that begins at a cache line."""
    copy = aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def _loop_rate(function: Any, arrays: list[np.ndarray], seconds: float) -> float:
    """Measure the multiplications per second of a loop of :data:`XOR_POPCOUNT`."""
    function.argtypes = [*[ctypes.c_void_p] * len(arrays), ctypes.c_long]
    function.restype = ctypes.c_uint64
    pointers = [array.ctypes.data for array in arrays]
    repeats, best = 20000, 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        function(*pointers, repeats)
        best = max(best, repeats * 4 * 512 * 64 / (time.perf_counter() - begin))
    return best


def _numpy_rate(seconds: float) -> float:
    """Measure the same with numpy's popcount, a lower bound of the machine's rate."""
    words = np.random.default_rng(0).integers(0, 2**63, (2, 2048), np.uint64)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        for _ in range(100):
            np.bitwise_count(words[0] ^ words[1]).sum()
        best = max(best, 100 * 2048 * 64 / (time.perf_counter() - begin))
    return best


def machine_limit(folder: Path, seconds: float) -> tuple[float, str]:
    """Return binary multiplications per second on one core, and how they were measured."""
    rate = _compiled_rate(folder, seconds)
    if rate is not None:
        return rate, 'the faster of two C loops compiled here, data in the first cache'
    return _numpy_rate(seconds), 'numpy.bitwise_count, a lower bound'


# ------------------------------------------------------------------ reporting


def table(times: dict[str, list[float]]) -> str:
    """Format the medians and their ratios to the time of 1-bit OpenVINO."""
    ours = median(times[BITS])
    lines = [f'  {"":<34}{"median ms":>11}{"least":>9}{"1-bit is":>11}']
    for name, taken in times.items():
        ratio = '' if name == BITS else f'{median(taken) / ours:>9.2f} x'
        lines.append(f'  {name:<34}{median(taken):>11.2f}{min(taken):>9.2f}{ratio:>11}')
    return '\n'.join(lines)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel for every setting, with one bar for every contender."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        1, len(results), figsize=(4.2 * len(results), 3.6), sharey=True, squeeze=False
    )
    for panel, result in zip(panels[0], results):
        names = [name for name in CONTENDERS if name in result['median_ms']][::-1]
        values = [result['median_ms'][name] / result['batch'] for name in names]
        colours = ['tab:red' if name in (BITS, NATIVE) else 'tab:gray' for name in names]
        bars = panel.barh(names, values, color=colours)
        panel.bar_label(bars, [f'{value:.1f}' for value in values], padding=2)
        panel.set_xscale('log')
        panel.margins(x=0.25)
        cores = '1 core' if result['threads'] == 1 else f'{result["threads"]} cores'
        panel.set_title(f'{cores}, batch {result["batch"]}')
        panel.set_xlabel('ms per image')
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report_kernels(networks: Networks, folder: Path, runs: int, seconds: float) -> dict[str, Any]:
    """Print and return the times of the operators and their ratios to the machine's limit."""
    shares = kernel_shares(networks.graphs[BITS], runs)
    total, binary = sum(shares.values()), shares.get('BinaryConvolution', 0.0)
    macs = sum(layer.macs for layer in networks.layers if layer.binary)
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', type=options.name, default='configs/es_bnext_tiny.py')
    parser.add_argument('--out', type=options.path, default=Path('work_dirs/latency'))
    parser.add_argument('--quick', action='store_true', help='one core, batch 1, few runs')
    parser.add_argument(
        '--seconds', type=options.positive, default=3.0, help='per contender and setting (3)'
    )
    parser.add_argument(
        '--only',
        nargs='+',
        metavar='NAME',
        choices=CONTENDERS,
        help=f'contenders besides {BITS!r}: {", ".join(CONTENDERS)}',
    )
    parser.add_argument(
        '--compile-batches',
        action='store_true',
        help='use torch.compile for batches of 16 too; compiling takes minutes',
    )
    args = parser.parse_args()
    if args.quick:
        args.seconds = min(args.seconds, 1.0)
    return args


def settings(quick: bool) -> list[tuple[int, int]]:
    """Return threads and batch of every setting."""
    if quick:
        return [(1, 1)]
    threads = sorted({1, usable_cores()})
    return [(count, batch) for count in threads for batch in (1, 16)]


def main() -> None:
    args = parse_args()
    require('openvino', 'deploy', 'latency.py')
    skipped = {COMPILED} if args.quick else set()
    contenders = [
        name
        for name in CONTENDERS
        if name == BITS or (name in (args.only or CONTENDERS) and name not in skipped)
    ]
    check_place(args.out)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f'preparing {args.config} ...', flush=True)
        networks = Networks(args.config, contenders, folder, args.compile_batches)
        for threads, batch in settings(args.quick):
            torch.set_num_threads(threads)
            x = torch.randn(batch, 3, SIZE, SIZE)
            runs = {name: networks.make(name, x, threads) for name in contenders}
            times = measure({k: v for k, v in runs.items() if v}, args.seconds)
            print(f'\n{threads} thread(s), batch {batch}')
            print(table(times), flush=True)
            results.append(
                dict(
                    threads=threads,
                    batch=batch,
                    times_ms=times,
                    median_ms={name: median(taken) for name, taken in times.items()},
                    runs={name: len(taken) for name, taken in times.items()},
                )
            )
        runner = report(networks.export, 4 if args.quick else 16, 3 if args.quick else 10)
        kernels = report_kernels(networks, folder, 10 if args.quick else 40, 1.0)
    content = dict(
        config=args.config,
        processor=_processor(),
        size=SIZE,
        results=results,
        runner=runner,
        kernels=kernels,
        versions=_versions(),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    save_json(args.out / 'latency.json', content)
    draw(results, args.out / 'latency.png')
    print(f'\nwrote {args.out / "latency.json"} and {args.out / "latency.png"}')


def _versions() -> dict[str, str]:
    import openvino as ov

    return {'mmesbnn': mmesbnn.__version__, 'torch': torch.__version__, 'openvino': ov.__version__}


if __name__ == '__main__':
    cli.run(main)
