"""Figures of the capacity of binary layers and of the similarity of copies."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..optional import require
from ..whole_files import whole_file
from .curves import latest

#: Prefixes of the keys of a layer's numbers in the log of ``CopyDiversityHook``.
CORRELATION, RANK = 'copies/correlation/', 'copies/rank_share/'


class MeasuredLayer(Protocol):
    """The numbers of a layer that are drawn, see :class:`mmesbnn.analysis.LayerCapacity`."""

    @property
    def channels(self) -> int: ...
    @property
    def possible(self) -> int: ...
    @property
    def values(self) -> float | None: ...
    @property
    def rank(self) -> float: ...
    @property
    def copy_correlation(self) -> float | None: ...


def _new_figure(title: str, count: int) -> tuple[Any, Any]:
    require('matplotlib', 'demo')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * count, 4.5), layout='constrained')
    figure.suptitle(title)
    return figure, figure.subplots(1, count)


def _count_layers(axis: Any, count: int) -> None:
    axis.set(xlabel='binary layer, in the order they run', xlim=(-0.5, count - 0.5))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')


def draw_capacity(
    networks: Mapping[str, Sequence[MeasuredLayer]], path: str | os.PathLike[str], title: str = ''
) -> None:
    """Draw how networks use their capacity, layer by layer, as a PNG.

    The panels show the number of values of an output entry, the effective rank of the
    signs that a layer reads, and the correlation of copies. Dotted lines are the largest
    possible numbers.

    Args:
        networks: Label of every network, and its result of
            :func:`mmesbnn.analysis.measure_capacity`.
        path: File to write. An existing file is replaced.
        title: Title of the figure. Default none.

    Raises:
        ValueError: If there is no network, or a network without layers.
        ImportError: If matplotlib is missing.
    """
    if not networks or not all(networks.values()):
        raise ValueError('networks: there must be at least one, with one layer or more')
    figure, axes = _new_figure(title, 3)
    for index, (label, layers) in enumerate(networks.items()):
        for axis, limit, name in (
            (axes[0], 'possible', 'values'),
            (axes[1], 'channels', 'rank'),
            (axes[2], None, 'copy_correlation'),
        ):
            style: dict[str, Any] = dict(color=f'C{index}', marker='.', markersize=4)
            numbers = [getattr(layer, name) for layer in layers]
            if limit:
                bounds = [getattr(layer, limit) for layer in layers]
                axis.plot(bounds, color=f'C{index}', linestyle=':')
            if any(number is not None for number in numbers):
                values = [float('nan') if number is None else number for number in numbers]
                axis.plot(values, label=label, **style)
    axes[0].set(title='values of an output entry (dotted: possible)', yscale='log')
    axes[1].set(title='effective rank of the signs read (dotted: channels)', ylim=(0, None))
    axes[2].set(title='correlation of copies, mean magnitude', ylim=(0, 1.02))
    for axis in axes:
        _count_layers(axis, max(map(len, networks.values())))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    _save(figure, path)


def _by_layer(record: Mapping[str, Any], start: str) -> tuple[list[int], list[float]]:
    """Return positions and numbers of the layers with keys that begin with ``start``."""
    names = [key.removeprefix(RANK) for key in record if key.startswith(RANK)]
    found = [(i, record[start + name]) for i, name in enumerate(names) if start + name in record]
    return [i for i, _ in found], [number for _, number in found]


def draw_copies(
    records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str = ''
) -> None:
    """Draw the log of ``CopyDiversityHook``, a line per measurement, as a PNG.

    Measurements that a later run repeats are left out.

    Args:
        records: Result of :func:`mmesbnn.plots.curves.read_scalars`.
        path: File to write. An existing file is replaced.
        title: Title of the figure. Default none.

    Raises:
        ValueError: If the hook logged nothing.
        ImportError: If matplotlib is missing.
    """
    measured = latest(x for x in records if any(key.startswith(RANK) for key in x))
    if not measured:
        raise ValueError('records: none is of CopyDiversityHook')
    figure, (left, right) = _new_figure(title, 2)
    from matplotlib import colormaps

    colours = colormaps['viridis']
    for i, record in enumerate(measured):
        style = dict(
            color=colours(0.9 * i / max(len(measured) - 1, 1)), marker='.', label=record['step']
        )
        for axis, start in ((left, CORRELATION), (right, RANK)):
            axis.plot(*_by_layer(record, start), **style)
    left.set(title='correlation of copies, mean magnitude', ylim=(0, 1.02))
    right.set(title='effective rank / channels', ylim=(0, 1.02))
    for axis in (left, right):
        _count_layers(axis, max(len(_by_layer(record, RANK)[0]) for record in measured))
    left.legend(title='iteration', fontsize=8)
    _save(figure, path)
