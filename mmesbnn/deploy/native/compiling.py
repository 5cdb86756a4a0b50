"""Compile a graph to a program and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov

from ..runtime.program import (
    ALIGNMENT,
    BinaryConv,
    Input,
    Map,
    Output,
    Pool,
    Program,
    RealConv,
    Step,
    Sweep,
)
from .code import segments
from .expressions import MapValue, reads_of
from .network import Heavy, Network
from .rules import Rules
from .schedule import SweepPlan, schedule

_HEAVY: dict[str, Any] = {'real_conv': RealConv, 'binary_conv': BinaryConv, 'pool': Pool}


class _Data:
    """Arrays in one buffer; equal arrays are stored once."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._parts: list[bytes] = []
        self.nbytes = 0

    def place(self, array: np.ndarray) -> int:
        """Return the first byte of an array in the data."""
        raw = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(raw).digest()
        if digest not in self._known:
            padded = raw + bytes(-len(raw) % ALIGNMENT)
            self._known[digest] = self.nbytes
            self._parts.append(padded)
            self.nbytes += len(padded)
        return self._known[digest]

    def whole(self) -> np.ndarray:
        """Return the whole buffer, uint8."""
        return np.frombuffer(b''.join(self._parts), np.uint8)


class _Memory:
    """Places of maps in memory; a place is free again after the last read.

    Args:
        lives: Number of the first and last step of each map.
    """

    def __init__(self, lives: dict[MapValue, tuple[int, int]]) -> None:
        self.nbytes = 0
        self.maps: list[Map] = []
        self.numbers: dict[MapValue, int] = {}
        placed: list[tuple[int, int, Map]] = []
        for one, (first, last) in sorted(lives.items(), key=lambda item: item[1]):
            busy = sorted((m.offset, m.offset + m.nbytes) for _, end, m in placed if end >= first)
            made = Map(
                kind=one.kind, height=one.height, width=one.width, channels=one.channels, offset=0
            )
            made = _moved(made, _gap(busy, made.nbytes))
            placed.append((first, last, made))
            self.numbers[one] = len(self.maps)
            self.maps.append(made)
            self.nbytes = max(self.nbytes, _round(made.offset + made.nbytes))


def _round(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _gap(busy: Sequence[tuple[int, int]], size: int) -> int:
    """Return the first free place of ``size`` bytes."""
    at = 0
    for start, stop in busy:
        if at + size <= start:
            break
        at = max(at, _round(stop))
    return at


def _moved(one: Map, offset: int) -> Map:
    return Map(
        kind=one.kind, height=one.height, width=one.width, channels=one.channels, offset=offset
    )


def _touched(step: SweepPlan | Heavy) -> set[MapValue]:
    """Return the maps that a step reads or writes."""
    if isinstance(step, Heavy):
        return {step.source, step.to}
    reads = [read.map for one in step.wanted for read in reads_of(one.value)]
    return {*reads, *(one.to for one in step.wanted)}


def _lives(network: Network, steps: Sequence[SweepPlan | Heavy]) -> dict[MapValue, tuple[int, int]]:
    assert network.image is not None and network.output is not None
    lives = {network.image: (0, 0)}
    for number, step in enumerate(steps, start=1):
        for one in _touched(step):
            lives[one] = (lives.get(one, (number, number))[0], number)
    lives[network.output] = (lives[network.output][0], len(steps) + 1)
    return lives


def _without_dead_stores(
    network: Network, steps: Sequence[SweepPlan | Heavy]
) -> list[SweepPlan | Heavy]:
    """Remove stores of maps that no step reads."""
    read = {network.output}
    for step in steps:
        if isinstance(step, Heavy):
            read.add(step.source)
        else:
            read.update(x.map for one in step.wanted for x in reads_of(one.value))
    result: list[SweepPlan | Heavy] = []
    for step in steps:
        if isinstance(step, SweepPlan):
            kept = [one for one in step.wanted if one.kind != 'store' or one.to in read]
            step = SweepPlan(step.size, kept)
            if not kept:
                continue
        result.append(step)
    return result


def compile_program(graph: ov.Model) -> tuple[Program, np.ndarray]:
    """Compile a graph for the native library.

    Args:
        graph: Of one image and one output, its binary convolutions reading comparisons,
            before its maps are brought to channels last.

    Returns:
        The program, and its data, uint8.

    Raises:
        NotCovered: If the library does not support a part of the graph.
    """
    network = Rules().follow(graph)
    steps = _without_dead_stores(network, schedule(network))
    memory, data = _Memory(_lives(network, steps)), _Data()
    made: list[Step] = [Input(to=memory.numbers[network.image])]  # type: ignore[index]
    for step in steps:
        made.append(_made(step, network, memory, data))
    made.append(Output(source=memory.numbers[network.output]))  # type: ignore[index]
    program = Program(
        memory=memory.nbytes, nbytes=data.nbytes, maps=tuple(memory.maps), steps=tuple(made)
    )
    return program, data.whole()


def _made(step: SweepPlan | Heavy, network: Network, memory: _Memory, data: _Data) -> Step:
    if isinstance(step, SweepPlan):
        found = segments(
            step.wanted,
            network.expressions,
            lambda one: memory.numbers[one],
            lambda array: data.place(array) // 4,
        )
        height, width = step.size
        return Sweep(height=height, width=width, segments=tuple(found))
    settings: dict[str, Any] = dict(step.settings)
    if step.weights is not None:
        settings['weights'] = data.place(step.weights) // step.weights.itemsize
        settings['at'], settings['kernels'] = step.at, step.channels
    source, to = memory.numbers[step.source], memory.numbers[step.to]
    return _HEAVY[step.kind](source=source, to=to, **settings)
