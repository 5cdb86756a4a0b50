"""Report of ``binarize``: layers that became binary, and reasons why others did not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parameter import is_lazy

from .options import BinaryOptions
from .replaceable import Candidate, Multiplier, Reason, Why


@dataclass(frozen=True)
class BinarizedLayer:
    """Entry of the report for one layer.

    Attributes:
        name: Name in the network.
        layer: Original layer, such as ``'Conv2d(64, 128, 3x3, stride 2)'``.
        replaced: True if the layer is binary now.
        reason: Reason why it was kept, or ``Reason.REPLACED``.
        why: Reason as text; for a replaced layer the new class.
        weights: Number of weights without biases.
        aliases: Other names under which the network holds the same module.
    """

    name: str
    layer: str
    replaced: bool
    reason: Reason
    why: str
    weights: int
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class BinarizeReport:
    """Result of :func:`binarize`. It iterates over its entries and prints as a table.

    Attributes:
        layers: One entry per layer that multiplies, in the order of the network.
        options: Options of the binary layers.
    """

    layers: list[BinarizedLayer] = field(default_factory=list)
    options: BinaryOptions | None = None

    def __iter__(self) -> Iterator[BinarizedLayer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def replaced(self) -> list[BinarizedLayer]:
        """Layers that are binary now."""
        return [layer for layer in self.layers if layer.replaced]

    @property
    def kept(self) -> list[BinarizedLayer]:
        """Layers that have not changed."""
        return [layer for layer in self.layers if not layer.replaced]

    @property
    def binary_weights(self) -> int:
        """Number of weights that are binary now."""
        return sum(layer.weights for layer in self.replaced)

    @property
    def kept_weights(self) -> int:
        """Number of weights of the kept layers."""
        return sum(layer.weights for layer in self.kept)

    def __str__(self) -> str:
        rows = [
            (
                layer.name,
                layer.layer,
                'replaced' if layer.replaced else 'kept',
                layer.why + ''.join(f' (also {name})' for name in layer.aliases),
            )
            for layer in self.layers
        ]
        rows.insert(0, ('name', 'layer', '', 'why'))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            '  '.join([*(c.ljust(w) for c, w in zip(row, widths)), row[3]]).rstrip() for row in rows
        ]
        lines.append(
            f'{len(self.replaced)} layers replaced with {self.binary_weights:,} binary '
            f'weights; {len(self.kept)} kept with {self.kept_weights:,}'
        )
        return '\n'.join(lines)


def _describe(module: Multiplier) -> str:
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return f'{kind}({module.in_features}, {module.out_features})'
    parts = [f'{module.in_channels}', f'{module.out_channels}']
    parts.append('x'.join(map(str, module.kernel_size)))
    if max(module.stride) > 1:
        same = len(set(module.stride)) == 1
        stride = module.stride[:1] if same else module.stride
        parts.append('stride ' + 'x'.join(map(str, stride)))
    if module.groups > 1:
        parts.append(f'groups {module.groups}')
    return f'{kind}({", ".join(parts)})'


def entry_of(candidate: Candidate, kept: Why | None, new: nn.Module | None) -> BinarizedLayer:
    """Describe a layer.

    Args:
        candidate: The layer.
        kept: Reason why it was kept, or None.
        new: The layer that replaces it, or None.
    """
    name, *aliases = (name for _, _, name in candidate.places)
    module = candidate.module
    return BinarizedLayer(
        name=name,
        layer=_describe(module),
        replaced=new is not None,
        reason=kept.reason if kept else Reason.REPLACED,
        why=kept.text if kept else f'now {type(new).__name__}',
        weights=0 if is_lazy(module.weight) else module.weight.numel(),
        aliases=tuple(aliases),
    )
