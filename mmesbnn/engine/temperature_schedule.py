"""Schedule of the temperatures of a training."""

from __future__ import annotations

import math
from typing import NamedTuple


class TemperatureSchedule(NamedTuple):
    """Schedule of temperatures ``T = initial * decay^step``; steps are counted from 0.

    Attributes:
        initial: Temperature of step 0.
        decay: Factor per step.
        binary_from: First step at which weights are exactly +-1.
    """

    initial: float
    decay: float
    binary_from: int

    def temperature(self, step: int) -> float:
        """Return the temperature of epoch (or iteration) ``step``."""
        return self.initial * self.decay**step


def temperature_schedule(
    below: float,
    *,
    initial: float = 1.0,
    decay: float | None = None,
    binary_from: int | None = None,
) -> TemperatureSchedule:
    """Complete a schedule: compute ``decay`` from ``binary_from``, or ``binary_from``.

    ``decay = (below / initial)^(1 / (binary_from - 1/2))``. ``T`` reaches ``below`` half a
    step earlier, so rounding cannot shift the step. With an ``initial`` less than ``below``
    the weights are always binary, and ``decay`` is 1.

    Args:
        below: Temperature below which weights are binary.
        initial: Temperature of step 0. Default 1.
        decay: Factor per step, between 0 and 1.
        binary_from: First step at which weights are binary, at least 1. It replaces
            ``decay``.

    Raises:
        ValueError: Unless exactly one of the last two is given; if ``initial`` equals
            ``below``; or if ``binary_from`` is given with an ``initial`` less than
            ``below``.
    """
    if (decay is None) == (binary_from is None):
        raise ValueError(f'decay={decay}, binary_from={binary_from}: give one of them')
    if initial < below:
        if binary_from is not None:
            raise ValueError(
                f'initial={initial}, binary_from={binary_from}: weights are binary below '
                f'{below} from the beginning: leave binary_from out'
            )
        return TemperatureSchedule(initial, 1.0, 0)
    if initial == below:
        raise ValueError(
            f'initial={initial} must not be exactly the temperature under which weights are binary'
        )
    hardening = math.log(below / initial)
    if binary_from is not None:
        decay = math.exp(hardening / (binary_from - 0.5))
        return TemperatureSchedule(initial, decay, binary_from)
    assert decay is not None  # one of them was given
    return TemperatureSchedule(initial, decay, math.floor(hardening / math.log(decay)) + 1)
