"""Result of a count: numbers per layer, totals, and the printed table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from ..checks import checked, integer, natural, one_of
from ..whole_files import whole_file

if TYPE_CHECKING:
    from .capacity import LayerCapacity

CONVENTION = (
    'OPs = FP MACs + 8-bit MACs / 8 + BOPs / 64. Counted: multiply-accumulates of\n'
    'convolutions, linear layers and matrix products. Not counted: signs, norms,\n'
    'activations, pooling, biases, element-wise products.'
)


@checked(taps=natural, bits=integer(1, 8), low=one_of(-1, 0))
def representation_capacity(taps: int, bits: int = 1, low: int = -1) -> int:
    """Return the number of different values of a sum of ``n`` sign products: ``n + 1``.

    The values are ``-n, -n + 2, ..., n``. If the activations have ``k`` bits, with ``s = 2^k -
    1`` steps from -1 to 1, the number is ``n s + 1``. If they are from 0 to 1, it is ``2 n s +
    1``, because a product can also be 0. This number is the argument for ES: an output
    entry of a binary layer can take few values only, ``C_i k_h k_w + 1``. With factor
    ``tau`` and the same number of operations it can take ``C_i tau k_h k_w + 1``. Zero
    padding removes some products at the border; this is ignored. A scale per channel
    changes the values, but not their number.

    Args:
        taps: ``n``, number of products.
        bits: ``k``, bits of an activation, 1 to 8. Default 1.
        low: Smallest activation, -1 or 0; the largest is 1. Default -1.

    Source: Shi et al., "Expanding-and-Shrinking Binary Neural Networks",
    arXiv 2503.23709.
    """
    return taps * (2**bits - 1) * (1 if low else 2) + 1


@dataclass
class LayerOps:
    """Cost of one layer.

    Attributes:
        name: Name of the layer in the network.
        type: Name of its class.
        kind: ``'binary'``; ``'4x1-bit'`` for activations of 4 bits and binary weights (or
            other numbers of bits); ``'full precision'``; ``'8-bit'`` (or another number);
            or ``'mixed'`` for a module with binary products and others.
        why: Reason why it is not binary, as far as the network shows it. Empty if it is
            binary.
        output_shape: Shape of its first result, None if it did not run.
        fp_macs: Multiply-accumulates at full precision.
        int_macs: Multiply-accumulates at ``bits`` bits.
        bits: Bits of the MACs, 32 for full precision.
        bops: Binary operations; a product of ``k`` and ``b`` bits has ``k b``.
        fp_params: Number of its own learnable parameters that are not binary.
        binary_params: Number of its own binary weights.
        bytes_fp32: Bytes of all these parameters at 4 bytes each.
        bytes_packed: One bit per binary weight (or as many as it has), rounded up to bytes,
            plus 4 bytes per output channel if the binary weight has a scale, plus 4 bytes per
            other parameter. Weights of 8-bit layers need 4 bytes, too: they are stored in full
            precision and rounded when they multiply.
        taps: ``n = C_i/groups k_h k_w``, number of products that an output entry sums;
            with ES ``C_i tau k_h k_w``. None if they are not products of signs.
        capacity: Representation capacity, see :func:`representation_capacity`.
        values: As :class:`LayerCapacity`'s. This and the next two are None unless
            :meth:`OpsReport.add_capacity` sets them.
        rank: Effective rank of the signs of its input.
        copy_correlation: Correlation between the copies of a channel.
    """

    name: str
    type: str
    kind: str
    why: str
    output_shape: list[int] | None
    fp_macs: int
    int_macs: int
    bits: int
    bops: int
    fp_params: int
    binary_params: int
    bytes_fp32: int
    bytes_packed: int
    taps: int | None
    capacity: int | None
    values: float | None = None
    rank: float | None = None
    copy_correlation: float | None = None

    @property
    def ops(self) -> float:
        """``FP MACs + bits/64 int MACs + BOPs/64``; an 8-bit MAC counts as 1/8."""
        return self.fp_macs + self.int_macs * self.bits / 64 + self.bops / 64

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes and ``ops``, for JSON."""
        return {**asdict(self), 'ops': self.ops}


#: Start of the reason of a layer that is real only because the network defines it so.
PLAIN = 'not a binary layer'


class _Column(NamedTuple):
    """A column of measured numbers.

    Attributes:
        name: Attribute of :class:`LayerOps`.
        head: Heading.
        form: Format of a number.
        note: Explanation of the number, below the table.
    """

    name: str
    head: str
    form: str
    note: str

    def cell(self, entry: dict[str, Any]) -> str:
        """Return the number of a row as text."""
        value = entry.get(self.name)
        return '-' if value is None else format(value, self.form)


MEASURED = [
    _Column(
        'values', 'values', '.1f', 'values      values that an output entry takes on the data, mean'
    ),
    _Column('rank', 'rank', '.1f', 'rank        effective rank of the signs that the layer reads'),
    _Column(
        'copy_correlation',
        'copies',
        '.2f',
        'copies      mean |correlation| between two copies of a channel',
    ),
]

SUMMED = (
    'fp_macs',
    'int_macs',
    'bops',
    'ops',
    'fp_params',
    'binary_params',
    'bytes_fp32',
    'bytes_packed',
)


@dataclass
class OpsReport:
    """Cost of a network.

    Attributes:
        layers: One entry per layer that multiplies, in the order in which they run.
        inputs: Shapes of the inputs that were counted.
        other_params: Number of learnable parameters of all other modules (norms,
            activations, shifts, ...). They are full precision.
        buffer_bytes: Bytes of the persistent buffers (running statistics of norms,
            temperatures). A file of weights holds them, too. No other number includes
            them.
    """

    layers: list[LayerOps] = field(default_factory=list)
    inputs: list[list[int]] = field(default_factory=list)
    other_params: int = 0
    buffer_bytes: int = 0

    def add_capacity(self, found: Sequence[LayerCapacity]) -> None:
        """Add the results of :func:`~mmesbnn.analysis.measure_capacity` to the layers."""
        layers = {layer.name: layer for layer in self.layers}
        for measured in found:
            layer = layers[measured.name]
            layer.values, layer.rank = measured.values, measured.rank
            layer.copy_correlation = measured.copy_correlation

    @property
    def _extra(self) -> list[_Column]:
        """Columns of the table for measured numbers; empty if nothing was measured."""
        measured = any(layer.rank is not None for layer in self.layers)
        return MEASURED if measured else []

    @property
    def total(self) -> dict[str, Any]:
        """Return sums over layers and other parameters, and capacities of binary layers."""
        total: dict[str, Any] = {
            name: sum(getattr(layer, name) for layer in self.layers) for name in SUMMED
        }
        total['fp_params'] += self.other_params
        total['bytes_fp32'] += 4 * self.other_params
        total['bytes_packed'] += 4 * self.other_params
        capacities = [x.capacity for x in self.layers if x.capacity is not None]
        return {
            **total,
            'other_params': self.other_params,
            'buffer_bytes': self.buffer_bytes,
            'binary_layers': len(capacities),
            'capacity_min': min(capacities, default=None),
            'capacity_median': median(capacities) if capacities else None,
            'capacity_max': max(capacities, default=None),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return ``inputs``, ``convention``, ``total`` and ``layers``, for JSON."""
        return {
            'inputs': self.inputs,
            'convention': CONVENTION.replace('\n', ' '),
            'total': self.total,
            'layers': [layer.to_dict() for layer in self.layers],
        }

    def table(self) -> str:
        """Return the report as text: a line per layer, totals, and the counted operations."""
        total = self.total
        with_int = total['int_macs'] > 0
        extra = self._extra
        rows = [_header(with_int, extra)]
        rows += [_row(layer.to_dict(), with_int, extra) for layer in self.layers]
        others = dict(
            name='all other modules',
            kind='',
            why='norms, activations, shifts, ...',
            output_shape=None,
            fp_params=self.other_params,
            bytes_fp32=4 * self.other_params,
            bytes_packed=4 * self.other_params,
        )
        rows.append(_row(others, with_int, extra))
        rows.append(_row(dict(total, name='total', kind='', why=''), with_int, extra))
        lines = [_inputs(self.inputs), '', *_align(rows), '', *self._notes(total)]
        return '\n'.join(lines)

    def formula(self) -> str:
        """Return the sum of operations as text: ``OPs = FP MACs + ... + BOPs / 64``."""
        total = self.total
        terms = [f'{readable(total["fp_macs"])} FP MACs']
        for bits in sorted({x.bits for x in self.layers if x.int_macs}):
            macs = sum(x.int_macs for x in self.layers if x.bits == bits)
            terms.append(f'{readable(macs)} {bits}-bit MACs / {64 / bits:g}')
        terms.append(f'{readable(total["bops"])} BOPs / 64')
        return f'{total["ops"] / 1e8:.4g}e8 = {" + ".join(terms)}'

    def _notes(self, total: dict[str, Any]) -> list[str]:
        fp, binary = total['fp_params'], total['binary_params']
        lines = [
            f'OPs         {self.formula()}',
            f'parameters  {readable(fp + binary)} = {readable(fp)} full precision + '
            f'{readable(binary)} binary',
            f'weights     {total["bytes_fp32"]} bytes in fp32, {total["bytes_packed"]} '
            f'with 1-bit weights; buffers add {total["buffer_bytes"]} to either',
        ]
        if total['binary_layers']:
            lines.append(
                f'capacity    an output entry of the {total["binary_layers"]} binary '
                f'layers takes {total["capacity_min"]} to {total["capacity_max"]} '
                f'values, median {total["capacity_median"]:g}'
            )
        lines += [column.note for column in self._extra]
        lines += self._plain_layers(total['binary_layers'])
        return [*lines, '', CONVENTION]

    def _plain_layers(self, binary: int) -> list[str]:
        """Return a note about layers that a binary network defines as real layers.

        Networks of other packages use ``conv_cfg`` for some of their convolutions only.
        """
        plain = [layer.name for layer in self.layers if layer.why.startswith(PLAIN)]
        if not binary or not plain:
            return []
        names = ', '.join(plain[:3]) + (', ...' if len(plain) > 3 else '')
        return [
            f'real        {len(plain)} of {len(self.layers)} layers are real only because '
            f'the network defines them so: {names}; if the network has a conv_cfg, it '
            'does not use it for these layers, and mmesbnn.binarize can replace '
            'them'
        ]


@checked()
def save_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as JSON; a reader sees the complete old file or the complete new one.

    Raises:
        OSError: If it cannot be written; ``path`` has not changed then.
    """
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def readable(number: float) -> str:
    """Return ``number`` with four digits and a unit."""
    for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
        if number >= size:
            return f'{number / size:.4g} {unit}'
    return f'{number:.4g}'


def _inputs(shapes: Sequence[Sequence[int]]) -> str:
    return 'input ' + ', '.join(' x '.join(map(str, shape)) for shape in shapes)


def _header(with_int: bool, extra: Sequence[_Column]) -> list[str]:
    macs = ['FP MACs', 'int MACs'] if with_int else ['FP MACs']
    return [
        'layer',
        'kind',
        'output',
        *macs,
        'BOPs',
        'OPs',
        'FP params',
        'binary',
        'bytes fp32',
        'bytes 1-bit',
        'capacity',
        *(column.head for column in extra),
        'why not binary',
    ]


def _row(entry: dict[str, Any], with_int: bool, extra: Sequence[_Column]) -> list[str]:
    shape = entry.get('output_shape')
    macs = ('fp_macs', 'int_macs') if with_int else ('fp_macs',)
    numbers = (*macs, 'bops', 'ops', 'fp_params', 'binary_params', 'bytes_fp32', 'bytes_packed')
    return [
        entry['name'],
        entry['kind'],
        'x'.join(map(str, shape)) if shape else '-',
        *(readable(entry[name]) if entry.get(name) else '-' for name in numbers),
        str(entry.get('capacity') or '-'),
        *(column.cell(entry) for column in extra),
        entry['why'],
    ]


def _align(rows: list[list[str]]) -> list[str]:
    """Align all columns, numbers to the right, and draw a line under the header."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < 3 or i == len(row) - 1 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append('  '.join(cells).rstrip())
    lines.insert(1, '-' * max(map(len, lines)))
    return lines
