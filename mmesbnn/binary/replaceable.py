"""Choice of the layers of a network that ``binarize`` replaces."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from ..checks import shown
from .data_flow import DataFlow
from .expansion import Expansion
from .layers import BinaryLayer
from .modes import inference
from .native_training import is_plain
from .plain_references import plain_references
from .trees import tensors_inside
from .weight_reads import WeightReads, read_by_definition

#: Layers that multiply. Each of them has an entry in the report.
_MULTIPLIERS = (nn.modules.conv._ConvNd, nn.Linear)
Multiplier = nn.modules.conv._ConvNd | nn.Linear

#: Layers that can become binary.
_ELIGIBLE = (nn.Conv2d, nn.Linear)

#: Modules whose subclasses compute the same as torch's layers (they only add support of
#: empty tensors).
_SAME_AS_TORCH = ('mmcv.cnn.bricks.wrappers',)


class Reason(enum.Enum):
    """Reason why a layer was kept, or ``REPLACED``."""

    REPLACED = 'replaced'
    NAMED = 'named by keep'
    FIRST = 'first layer'
    LAST = 'last layer'
    IDLE = 'did not run'
    OBSTACLE = 'cannot be replaced'


class Why(NamedTuple):
    """A reason and the text that the report shows for it."""

    reason: Reason
    text: str


_IDLE = Why(Reason.IDLE, 'did not run on the example')
_FIRST = Why(Reason.FIRST, 'first layer, reads the input')
_FIRST_RUN = Why(Reason.FIRST, 'first layer that ran')
_LAST = Why(Reason.LAST, 'last layer, gives the output')
_LAST_RUN = Why(Reason.LAST, 'last layer that ran')


@dataclass(eq=False)
class Candidate:
    """A layer that multiplies, and its places in the network.

    Attributes:
        module: The layer.
        places: Parent, attribute and name, for every name of the layer.
    """

    module: Multiplier
    places: list[tuple[nn.Module, str, str]]

    @property
    def name(self) -> str:
        """First name of the layer."""
        return self.places[0][2]


def candidates_of(model: nn.Module) -> list[Candidate]:
    """Return the layers that multiply, in the order of definition."""
    found: dict[Multiplier, Candidate] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _MULTIPLIERS) and name:
            parent, _, attribute = name.rpartition('.')
            place = (model.get_submodule(parent), attribute, name)
            found.setdefault(module, Candidate(module, [])).places.append(place)
    return list(found.values())


def _matches(name: str, pattern: str) -> bool:
    """Return True if ``pattern`` matches the module ``name`` or a module that holds it."""
    parts = name.split('.')
    return any(fnmatchcase('.'.join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _kept_by_name(candidates: Sequence[Candidate], keep: Sequence[str]) -> dict[Candidate, Why]:
    kept: dict[Candidate, Why] = {}
    for pattern in keep:
        found = [
            candidate
            for candidate in candidates
            if any(_matches(name, pattern) for _, _, name in candidate.places)
        ]
        if not found:
            raise ValueError(f'{shown("keep", pattern)} matches no convolution and no linear layer')
        kept.update(dict.fromkeys(found, Why(Reason.NAMED, f'keep={pattern!r}')))
    return kept


def run_example(model: nn.Module, example: Any) -> Any:
    """Run a model with a tensor, a sequence of arguments or a mapping of keyword arguments."""
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (list, tuple)) else model(example)


def _ends_by_running(
    model: nn.Module, candidates: Sequence[Candidate], example: Any
) -> tuple[dict[Candidate, Why], dict[int, str]]:
    """Run ``example`` and find the first, the last and the idle layers.

    First layers read ``example``; last layers give the output; idle layers did not run. See
    :class:`~mmesbnn.binary.data_flow.DataFlow`.

    Returns:
        These layers with their reasons. Also a mapping from the id of each layer whose
        weight another module reads to the class of that module.
    """
    reads = WeightReads([candidate.module for candidate in candidates])
    layers: dict[Hashable, nn.Module] = {x: x.module for x in candidates}
    flow = DataFlow(layers, model, tensors_inside(example))
    with inference(model), reads, flow:
        makers = flow.makers(tensors_inside(run_example(model, example)))
    ran: list[Any] = flow.ran()
    ends = {
        **{x: _IDLE for x in candidates if x not in ran},
        **({x: _LAST for x in ran if x in makers} or {x: _LAST_RUN for x in ran[-1:]}),
        **({x: _FIRST for x in ran if x in flow.readers} or {x: _FIRST_RUN for x in ran[:1]}),
    }
    return ends, reads.found


def _ends_by_definition(candidates: Sequence[Candidate]) -> dict[Candidate, Why]:
    return {
        **dict.fromkeys(candidates[-1:], Why(Reason.LAST, 'last layer')),
        **dict.fromkeys(candidates[:1], Why(Reason.FIRST, 'first layer')),
    }


def numeric_padding(conv: nn.modules.conv._ConvNd) -> tuple[int, ...] | None:
    """Return the padding of a convolution in pixels, None if ``'same'`` pads unevenly."""
    if not isinstance(conv.padding, str):
        return conv.padding
    if conv.padding == 'valid':
        return (0,) * len(conv.kernel_size)
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
    return None if any(n % 2 for n in total) else tuple(n // 2 for n in total)


def _computes_as_torch(kind: type) -> bool:
    """Return True if a class is nn.Conv2d or nn.Linear or computes the same."""
    known = kind.__module__ in _SAME_AS_TORCH and issubclass(kind, _ELIGIBLE)
    return kind in _ELIGIBLE or known


def _obstacle(
    candidate: Candidate,
    owners: Mapping[int, list[str]],
    readers: Mapping[int, str],
    holders: Mapping[int, str],
    expansion: Expansion,
) -> str | None:
    """Return the reason why ES cannot replace the layer, or None if it can."""
    module = candidate.module
    kind = type(module)
    if isinstance(module, BinaryLayer):
        return 'a binary layer already'
    if id(module) in readers:
        return f'{readers[id(module)]} reads its weight'
    for held, what in ((module, 'it'), (module.weight, 'its weight')):
        if id(held) in holders:
            return f'{holders[id(held)]}, an ordinary attribute, also holds {what}'
    if not _computes_as_torch(kind):
        own = [x.__name__ for x in _ELIGIBLE]  # other classes of these names need their module
        name = f'{kind.__module__}.{kind.__name__}' if kind.__name__ in own else kind.__name__
        return f'{name} is neither nn.Conv2d nor nn.Linear'
    if module.weight.is_complex():
        return f'its weights are complex, {module.weight.dtype}'
    if 'forward' in module.__dict__:  # such as accelerate's, which moves the weights
        return 'its forward was replaced'
    if not is_plain(module):
        return 'has forward or backward hooks'
    shared = [x for x in owners[id(module.weight)] if x != candidate.name]
    if shared:
        return f'shares its weight with {shared[0]}'
    if isinstance(module, nn.Linear):
        return _indivisible(expansion, module.out_features, 'out_features')
    assert isinstance(module, nn.Conv2d)
    if module.groups > 1:
        depthwise = module.groups == module.in_channels
        return 'depthwise' if depthwise else f'grouped, groups={module.groups}'
    if module.padding_mode != 'zeros' or numeric_padding(module) is None:
        return f'padding={module.padding!r}, padding_mode={module.padding_mode!r}'
    return _indivisible(expansion, module.out_channels, 'out_channels')


def _indivisible(expansion: Expansion, channels: int, name: str) -> str | None:
    try:
        expansion.kernels(channels, name)
    except ValueError as error:
        return str(error)
    return None


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Map the id of every parameter to the names of the modules that hold it."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def kept_layers(
    model: nn.Module,
    candidates: Sequence[Candidate],
    expansion: Expansion,
    *,
    keep: Sequence[str],
    keep_first: bool,
    keep_last: bool,
    example: Any,
) -> dict[Candidate, Why]:
    """Return the layers that stay as they are, with reasons.

    Args:
        model: The network.
        candidates: Its layers that multiply.
        expansion: ES of the layers that replace the others.
        keep: Names or patterns of layers to keep.
        keep_first: Whether to keep the first layer.
        keep_last: Whether to keep the last layer.
        example: Input of the model, or None.

    Raises:
        ValueError: If a pattern in ``keep`` matches nothing.
    """
    kept = _kept_by_name(candidates, keep)
    readers = read_by_definition(model)
    if example is None:
        ends = _ends_by_definition(candidates)
    else:
        ends, seen = _ends_by_running(model, candidates, example)
        readers.update(seen)
        ends = {x: w for x, w in ends.items() if w != _IDLE or id(x.module) not in readers}
    unwanted = {Reason.FIRST: not keep_first, Reason.LAST: not keep_last}
    ends = {x: w for x, w in ends.items() if not unwanted.get(w.reason)}
    owners, holders = _owners(model), plain_references(model)
    for candidate in candidates:
        obstacle = _obstacle(candidate, owners, readers, holders, expansion)
        why = ends.get(candidate) or (obstacle and Why(Reason.OBSTACLE, obstacle))
        if why:
            kept.setdefault(candidate, why)
    return kept
