"""Times and bytes of training steps of contenders that take turns."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from .contenders import Training
from .memory import peak_bytes, saved_bytes


def measure(trainings: dict[str, Training], steps: int) -> dict[str, dict[str, Any]]:
    """Measure the contenders, in turn step by step.

    Args:
        trainings: The contenders by form.
        steps: How many steps of each are timed.
    """
    results: dict[str, dict[str, Any]] = {}
    for form, training in trainings.items():
        begin = time.perf_counter()
        training.step()
        first = time.perf_counter() - begin
        training.step()
        # a graph stores in memory of its own, and must not be replayed with other references
        saved = None if training.recorded else saved_bytes(training)
        results[form] = dict(first_s=first, saved_bytes=saved)
        results[form]['peak_bytes'] = peak_bytes(training)
    times: dict[str, list[float]] = {form: [] for form in trainings}
    processor: dict[str, list[float]] = {form: [] for form in trainings}
    for _ in range(steps):
        for form, training in trainings.items():
            begin, used = time.perf_counter(), time.process_time()
            training.step()
            times[form].append(time.perf_counter() - begin)
            processor[form].append(time.process_time() - used)
    for form, taken in times.items():
        batch = len(trainings[form].x)
        results[form].update(
            least_s=min(taken),
            processor_s=min(processor[form]),
            median_s=median(taken),
            images_per_s=batch / median(taken),
            times_s=taken,
            processor_times_s=processor[form],
        )
    return results
