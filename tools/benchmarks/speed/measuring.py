"""Times of contenders that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Protocol

import torch

Run = Callable[[], Any]
#: Number of threads and number of images of a run.
Setting = tuple[int, int]


class Network(Protocol):
    """Network in all forms that are measured."""

    def make(self, name: str, threads: int, batch: int) -> Run | None:
        """Return a function that runs a form once; None if the form cannot run so.

        Args:
            name: Name of the contender.
            threads: Number of threads.
            batch: Number of images.
        """


def measure(runs: dict[str, Run], seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Measure the times of every contender in ms: the first and the second run of each turn.

    The first run finds the caches full of another contender's data, and often the processor at
    another frequency, so its time depends on who ran before. That of the second run depends on it
    less.

    Args:
        runs: The contenders.
        seconds: Total time of each contender. The contenders take turns; each has at least 3
            and at most 100 of them.
    """
    for run in runs.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    while True:
        open_ = [
            name
            for name, taken in times.items()
            if len(taken) < 3 or (sum(map(sum, taken)) < 1e3 * seconds and len(taken) < 100)
        ]
        if not open_:
            return times
        for name in open_:
            times[name].append((_timed(runs[name]), _timed(runs[name])))


def _timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


def measure_setting(
    network: Network, names: Iterable[str], setting: Setting, seconds: float
) -> dict[str, Any]:
    """Measure a network's forms in one setting.

    Args:
        network: The network.
        names: Names of the contenders.
        setting: Number of threads and of images.
        seconds: As for :func:`measure`.
    """
    threads, batch = setting
    torch.set_num_threads(threads)
    runs = {name: network.make(name, threads, batch) for name in names}
    turns = measure({name: run for name, run in runs.items() if run}, seconds)
    times = {name: [second for _, second in taken] for name, taken in turns.items()}
    return dict(
        threads=threads,
        batch=batch,
        times_ms=times,
        first_ms={name: [first for first, _ in taken] for name, taken in turns.items()},
        median_ms={name: median(taken) for name, taken in times.items()},
        runs={name: len(taken) for name, taken in times.items()},
    )
