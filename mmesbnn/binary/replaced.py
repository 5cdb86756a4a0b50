"""Layers that :func:`mmesbnn.binarize` replaced in a network, for files that store them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..checks import check, each, mapping, sequence, text
from .binarize import BINARY, REPORTS, replace_candidates
from .binarize_report import BinarizeReport
from .expansion import Expansion
from .options import BinaryOptions
from .replaceable import Reason, Why, candidates_of, kept_layers

_STORED = each(
    mapping(['module', 'layers', 'options']),
    module=text,
    layers=sequence(text, shortest=1),
    options=mapping(),
)


_NOT_CHOSEN = Why(Reason.NAMED, 'not among the given layers')


@dataclass(frozen=True)
class Replaced:
    """Layers that became binary in one call of ``binarize``.

    Attributes:
        module: Name of the module that was the argument; ``''`` for the network itself.
        layers: Names of the layers in it.
        options: How they became binary.
    """

    module: str
    layers: tuple[str, ...]
    options: BinaryOptions

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values.

        Raises:
            ValueError: If an option is a module.
        """
        return dict(module=self.module, layers=list(self.layers), options=self.options.to_dict())

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Replaced:
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: If it is something else.
        """
        check('binarized', content, _STORED)
        options = BinaryOptions.from_dict(content['options'])
        return cls(content['module'], tuple(content['layers']), options)


def replaced_in(model: nn.Module) -> list[Replaced]:
    """Return the layers that ``binarize`` replaced in a network or its parts, if still there."""
    found = []
    for name, module in model.named_modules():
        inside = dict(module.named_modules())
        for report in getattr(module, REPORTS, ()):
            layers = [x.name for x in report.replaced if isinstance(inside.get(x.name), BINARY)]
            if layers:
                found.append(Replaced(name, tuple(layers), report.options))
    return found


def replace_again(model: nn.Module, replaced: Replaced) -> None:
    """Replace in a network the layers that were replaced in another network of its kind.

    Layers that are already binary do not change.

    Args:
        model: The network, changed in place.
        replaced: Result of :func:`replaced_in` for the other network.

    Raises:
        ValueError: If the network has no such layers.
    """
    names = dict(model.named_modules())
    if replaced.module not in names:
        raise ValueError(f'{type(model).__name__} has no module {replaced.module}')
    part = names[replaced.module]
    inside = dict(part.named_modules())
    missing = [layer for layer in replaced.layers if layer not in inside]
    if missing:
        raise ValueError(f'{type(part).__name__} has no layer {missing[0]}')
    layers = [layer for layer in replaced.layers if not isinstance(inside[layer], BINARY)]
    if layers:
        binarize_layers(part, layers, replaced.options)


def binarize_layers(
    model: nn.Module, layers: Sequence[str], options: BinaryOptions, keep: Sequence[str] = ()
) -> BinarizeReport:
    """Replace only the given layers, as :func:`mmesbnn.binarize` does.

    Args:
        model: The network, changed in place.
        layers: Names of the layers.
        options: How they become binary.
        keep: Patterns of layers among them that stay. Default none.

    Raises:
        ValueError: As ``binarize``.
    """
    chosen = {id(model.get_submodule(name)) for name in layers}
    candidates = candidates_of(model)
    kept = kept_layers(
        model,
        candidates,
        Expansion(options.tau, options.es_groups),
        keep=keep,
        keep_first=False,
        keep_last=False,
        example=None,
    )
    # by identity: a name could be a pattern, or the name of a module that holds a chosen layer
    kept.update({x: _NOT_CHOSEN for x in candidates if id(x.module) not in chosen})
    return replace_candidates(model, candidates, kept, options)
