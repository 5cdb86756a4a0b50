"""Schedule of the steps: each as early as possible, with sweeps merged.

Results that can be computed in the same sweep read each other from registers. One pass can
therefore make a residual map, the next layer's bits and the mean for a gate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from .expressions import Expression, Expressions, MapValue, Read, reads_of
from .network import Heavy, Network, Wanted


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """Planned sweep.

    Attributes:
        size: Height and width of its maps.
        wanted: Its results. Their expressions read no map that the sweep itself writes.
    """

    size: tuple[int, int]
    wanted: list[Wanted]


@dataclass(frozen=True)
class _Place:
    """Part of a map that one writer writes."""

    writer: Any
    start: int
    stop: int


def _places(source: MapValue) -> list[_Place]:
    return [_Place(w, w.at, w.at + w.channels) for w in source.writers]


def _owners(read: Read) -> np.ndarray:
    """Return the number of the writer of every channel that is read."""
    owners = np.full(read.map.channels, -1)
    for number, place in enumerate(_places(read.map)):
        owners[place.start : place.stop] = number
    return owners[read.index]


def _is_mean(writer: Any) -> bool:
    return isinstance(writer, Wanted) and writer.kind == 'mean'


def _pieces(wanted: Wanted, expressions: Expressions) -> list[Wanted]:
    """Split a result at the channels where its reads change from one writer to another."""
    cuts = {0, wanted.channels}
    for read in reads_of(wanted.value):
        if not all(_is_mean(writer) for writer in read.map.writers):  # read from memory only
            cuts |= {int(i) + 1 for i in np.flatnonzero(np.diff(_owners(read)))}
    # splitting a map whose parts are read in turn would only make many small pieces
    edges = sorted(cuts)
    if len(edges) == 2 or len(edges) > 9:
        return [wanted]

    def part(x: Expression, start: int, stop: int) -> Expression:
        return expressions.changed(x, lambda a: a[start:stop])

    pieces = []
    for start, stop in pairwise(edges):
        limit = None if wanted.limit is None else part(wanted.limit, start, stop)
        piece = replace(
            wanted,
            value=part(wanted.value, start, stop),
            at=wanted.at + start,
            channels=stop - start,
            limit=limit,
        )
        pieces.append(piece)
    place = wanted.to.writers.index(wanted)
    wanted.to.writers[place : place + 1] = pieces
    return pieces


class _Scheduler:
    def __init__(self, network: Network) -> None:
        self.expressions = network.expressions
        self.heavy = list(network.heavy)
        self.wanted = list(network.wanted)
        self.done: set[Any] = set()

    def split(self) -> None:
        # stores first, because their readers are split at the same channels
        for kind in ('store', 'mean', 'pool', 'bits'):
            self.wanted = [
                piece
                for one in self.wanted
                for piece in (_pieces(one, self.expressions) if one.kind == kind else [one])
            ]

    def _writers(self, reads: Iterable[Read]) -> Iterator[Any]:
        for read in reads:
            places = _places(read.map)
            for number in np.unique(_owners(read)):
                if number >= 0:
                    yield places[number].writer

    def _inlined(self, one: Wanted, fresh: dict[Wanted, Expression]) -> Expression | None:
        """Return the value of a result if it can be computed now, else None.

        Args:
            one: The result.
            fresh: Values that the current sweep stores.
        """
        reads = reads_of(one.value)
        for writer in self._writers(reads):
            if writer not in self.done and writer not in fresh:
                return None

        def replacement(read: Read) -> Expression | None:
            writers = list(self._writers([read]))
            if len(writers) != 1 or writers[0] not in fresh:
                return None
            start = writers[0].at
            return self.expressions.changed(fresh[writers[0]], lambda a: a[read.index - start])

        value = self.expressions.replaced(one.value, replacement)
        left = [w for w in self._writers(reads_of(value)) if w not in self.done]
        return None if left else value

    def _sweep(self) -> SweepPlan | None:
        """Return a sweep of all results that can be computed now, for one size of maps."""
        size: tuple[int, int] | None = None
        fresh: dict[Wanted, Expression] = {}
        taken: list[Wanted] = []
        chosen: list[Wanted] = []
        grown = True
        while grown:
            grown = False
            for one in list(self.wanted):
                if size not in (None, one.size):
                    continue
                value = self._inlined(one, fresh)
                if value is None:
                    continue
                size, grown = one.size, True
                self.wanted.remove(one)
                taken.append(one)
                chosen.append(replace(one, value=value))
                if one.kind == 'store':
                    fresh[one] = value
        self.done.update(taken)
        return None if size is None else SweepPlan(size, chosen)

    def steps(self) -> Iterator[SweepPlan | Heavy]:
        """Yield the steps in order."""
        while self.wanted or self.heavy:
            plan = self._sweep()
            if plan is not None:
                yield plan
                continue
            ready = next((one for one in self.heavy if self._is_ready(one)), None)
            assert ready is not None  # the graph has no cycle
            self.heavy.remove(ready)
            self.done.add(ready)
            yield ready

    def _is_ready(self, one: Heavy) -> bool:
        return all(writer in self.done for writer in one.source.writers)


def schedule(network: Network) -> list[SweepPlan | Heavy]:
    """Return the steps of a network in order."""
    scheduler = _Scheduler(network)
    scheduler.split()
    return list(scheduler.steps())
