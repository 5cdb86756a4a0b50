"""Ratios of a Runner's times: batches to single images, and all cores to one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime.engine import usable_cores

from .exports import runs_natively

#: Engine, number of threads and number of images of a run.
Setting = tuple[str, int, int]


def runs_of(folder: Path, batch: int) -> dict[Setting, Callable[[], Any]]:
    """Return a function for every engine, number of threads and number of images."""
    threads = sorted({1, usable_cores()})
    runs = {}
    for engine in ('native', 'openvino')[not runs_natively(folder) :]:
        for count in threads:
            runner = Runner(folder, engine=engine, threads=count)
            shape = runner.manifest.image_shape[1:]
            for images in (1, batch):
                x = np.random.default_rng(0).standard_normal((images, *shape)).astype(np.float32)
                runs[engine, count, images] = lambda runner=runner, x=x: runner.infer(x)
    return runs


def in_turn(runs: dict[Setting, Callable[[], Any]], rounds: int) -> dict[Setting, Any]:
    """Measure times in ms per image: wall time and CPU time of the process, for each round."""
    times: dict[Setting, list[tuple[float, float]]] = {setting: [] for setting in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for setting, run in runs.items():
            run()  # because the first one depends on who ran before, see measure()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            times[setting].append((1e3 * spent[0] / setting[2], 1e3 * spent[1] / setting[2]))
    return times


def _ratio(times: Iterable[float], to: Iterable[float]) -> float:
    """Return the median of the ratios in the same round."""
    return median(a / b for a, b in zip(times, to))


def report(folder: Path, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Print and return times per image, and their ratios to one image on one core.

    Args:
        folder: Export with an open batch.
        batch: Number of images of a batch.
        rounds: Number of rounds; in each, every setting runs once.
    """
    times = in_turn(runs_of(folder, batch), rounds)
    print(f'\nRunner, ms per image, and ratios to one image on one core ({rounds} rounds in turn)')
    print(
        f'  {"engine":<10}{"threads":>8}{"images":>8}{"wall":>9}{"CPU":>9}{"wall x":>9}{"CPU x":>9}'
    )
    results = []
    for setting, taken in times.items():
        engine, threads, images = setting
        (wall, cpu), (wall_1, cpu_1) = zip(*taken), zip(*times[engine, 1, 1])
        one = dict(
            engine=engine,
            threads=threads,
            images=images,
            wall_ms=median(wall),
            cpu_ms=median(cpu),
            wall_ratio=_ratio(wall, wall_1),
            cpu_ratio=_ratio(cpu, cpu_1),
        )
        results.append(one)
        print(
            f'  {engine:<10}{threads:>9}{images:>9}{one["wall_ms"]:>9.2f}{one["cpu_ms"]:>9.2f}'
            f'{one["wall_ratio"]:>9.2f}{one["cpu_ratio"]:>9.2f}',
            flush=True,
        )
    return results
