"""Compile a graph to a program and its data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from ..runtime.program import Program
from ..runtime.program_maps import ALIGNMENT, Map
from ..runtime.program_steps import BinaryConv, Input, Output, Pool, RealConv, Step
from ..runtime.program_sweeps import MAP, Sweep
from ..runtime.schema import Unfit
from .axes import NotCovered
from .code import segments
from .expressions import MapValue, reads_of
from .network import Heavy, Network
from .rules import translated
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
    """Places of maps, which those that are no longer read give free.

    Args:
        lives: Number of the first and last step of each map.

    Attributes:
        numbers: Numbers of the maps in the program.
    """

    def __init__(self, lives: dict[MapValue, tuple[int, int]]) -> None:
        self._lives = dict(sorted(lives.items(), key=lambda item: item[1]))
        self._maps = list(self._lives)
        self.numbers = {one: number for number, one in enumerate(self._maps)}

    def maps(self, steps: Sequence[Step]) -> tuple[Map, ...]:
        """Return the maps with their places: large ones first, each at the first free byte."""
        instead = self._in_place(steps)
        owners = list(range(len(self._maps)))
        lives = list(self._lives.values())
        for new, old in sorted(instead.items()):
            owners[new] = owners[old]
            lives[owners[old]] = lives[owners[old]][0], lives[new][1]
        sizes = [_map(one, 0).nbytes for one in self._maps]
        offsets: dict[int, int] = {}
        for number in sorted(set(owners), key=lambda one: (-sizes[one], one)):
            first, last = lives[number]
            busy = [
                (offset, offset + sizes[other])
                for other, offset in offsets.items()
                if lives[other][0] <= last and first <= lives[other][1]
            ]
            offsets[number] = _gap(sorted(busy), sizes[number])
        return tuple(_map(one, offsets[owner]) for one, owner in zip(self._maps, owners))

    def _in_place(self, steps: Sequence[Step]) -> dict[int, int]:
        """Return maps that take the place of a map that the same sweep reads last.

        So a residual map that is added to stays in the cache.
        """
        instead: dict[int, int] = {}
        for number, step in enumerate(steps):
            if not isinstance(step, Sweep):
                continue
            for to, source in _replaceable(step):
                new, old = self._maps[to], self._maps[source]
                same = (new.kind, new.channels, new.height, new.width) == (
                    old.kind,
                    old.channels,
                    old.height,
                    old.width,
                )
                ends = self._lives[new][0] == number == self._lives[old][1]
                if same and ends and to not in instead and source not in instead.values():
                    instead[to] = source
        return instead


def _replaceable(sweep: Sweep) -> Iterator[tuple[int, int]]:
    """Give pairs of maps, of which the second is read before the first is written.

    It must be read at the same pixels and channels only.
    """
    reads: dict[int, list[_Use]] = {}
    stores: dict[int, list[_Use]] = {}
    for place, segment in enumerate(sweep.segments):
        for line, (name, to, *operands) in enumerate(segment.code):
            for what, number, offset, period in operands:
                if what == MAP:
                    reads.setdefault(number, []).append(_Use(place, line, offset, period))
            if to[0] == MAP and name != 'bits':
                use = _Use(place, line, to[2], segment.channels)
                stores.setdefault(to[1], []).append(use)
    for to, written in stores.items():
        for source, read in reads.items():
            if all(store.may_replace(use) for store in written for use in read):
                yield to, source


@dataclass(frozen=True)
class _Use:
    """Channels of a map that an instruction reads or writes."""

    segment: int
    line: int
    start: int
    count: int

    def may_replace(self, read: _Use) -> bool:
        """Return true if ``read`` cannot see what this writes."""
        if self.start >= read.start + read.count or read.start >= self.start + self.count:
            return True
        same = (self.segment, self.start, self.count) == (read.segment, read.start, read.count)
        return same and read.line <= self.line


def _map(one: MapValue, offset: int) -> Map:
    return Map(
        kind=one.kind, height=one.height, width=one.width, channels=one.channels, offset=offset
    )


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


def _touched(step: SweepPlan | Heavy) -> list[MapValue]:
    """Return the maps that a step reads or writes, in the same order for equal networks."""
    if isinstance(step, Heavy):
        return [step.source, step.to]
    reads = [read.map for one in step.wanted for read in reads_of(one.value)]
    return [*reads, *(one.to for one in step.wanted)]


def _lives(network: Network, steps: Sequence[SweepPlan | Heavy]) -> dict[MapValue, tuple[int, int]]:
    assert network.image is not None
    lives = {network.image: (0, 0)}
    for number, step in enumerate(steps, start=1):
        for one in _touched(step):
            lives[one] = (lives.get(one, (number, number))[0], number)
    for output in network.outputs:
        lives[output] = (lives[output][0], len(steps) + 1)
    return lives


def _without_dead_stores(
    network: Network, steps: Sequence[SweepPlan | Heavy]
) -> list[SweepPlan | Heavy]:
    """Remove stores of maps that no step reads."""
    read = set(network.outputs)
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
        graph: For one image, with any number of outputs; its binary convolutions read
            comparisons. Its maps are not yet channels last.

    Returns:
        The program, and its data, uint8.

    Raises:
        NotCovered: If the library does not support a part of the graph.
    """
    try:
        return _compiled(translated(graph))
    except Unfit as error:
        raise NotCovered(f'its program would be beyond a limit: {error}') from error


def _compiled(network: Network) -> tuple[Program, np.ndarray]:
    steps = _without_dead_stores(network, schedule(network))
    memory, data = _Memory(_lives(network, steps)), _Data()
    made: list[Step] = [Input(to=memory.numbers[network.image])]  # type: ignore[index]
    for step in steps:
        made.append(_made(step, network, memory, data))
    made += [Output(source=memory.numbers[output]) for output in network.outputs]
    maps = memory.maps(made)
    program = Program(
        memory=max(_round(one.offset + one.nbytes) for one in maps),
        nbytes=data.nbytes,
        maps=maps,
        steps=tuple(made),
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
