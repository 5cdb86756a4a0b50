"""Replacement of the convolutions and linear layers of a built network by binary ones."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from ..checks import either, filled_text, sequence, shown, text
from .arguments import MODULE, checked_layer
from .es_layers import ESConv2d, ESLinear
from .expansion import Expansion, copy_signs
from .layers import BinaryLayer
from .modes import inference
from .norms_behind import flip_channels, norms_behind
from .options import BinaryOptions, merged_options
from .shrunk import shrunk_weight
from .weight_reads import WeightReads, read_by_definition

#: Layers that multiply. Each of them has an entry in the report.
_MULTIPLIERS = (nn.modules.conv._ConvNd, nn.Linear)
_Multiplier = nn.modules.conv._ConvNd | nn.Linear

#: Attribute of a model with the reports of its replaced layers, for files.
REPORTS = '_binarize_reports'

#: Layers that can become binary.
_ELIGIBLE = (nn.Conv2d, nn.Linear)

#: Classes of the layers that replace them.
BINARY = (ESConv2d, ESLinear)


class Reason(enum.Enum):
    """Reason why a layer was kept, or ``REPLACED``."""

    REPLACED = 'replaced'
    NAMED = 'named by keep'
    FIRST = 'first layer'
    LAST = 'last layer'
    IDLE = 'did not run'
    OBSTACLE = 'cannot be replaced'


class _Why(NamedTuple):
    """A reason and the text that the report shows for it."""

    reason: Reason
    text: str


_IDLE = _Why(Reason.IDLE, 'did not run on the example')

#: Modules whose subclasses compute the same as torch's layers (they only add support of
#: empty tensors).
_SAME_AS_TORCH = ('mmcv.cnn.bricks.wrappers',)


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


@dataclass(eq=False)
class _Candidate:
    """A layer that multiplies, and its places in the network.

    Attributes:
        module: The layer.
        places: Parent, attribute and name, for every name of the layer.
    """

    module: _Multiplier
    places: list[tuple[nn.Module, str, str]]

    @property
    def name(self) -> str:
        return self.places[0][2]


def _candidates(model: nn.Module) -> list[_Candidate]:
    """Return the layers that multiply, in the order of definition."""
    found: dict[_Multiplier, _Candidate] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, _MULTIPLIERS) and name:
            parent, _, attribute = name.rpartition('.')
            place = (model.get_submodule(parent), attribute, name)
            found.setdefault(module, _Candidate(module, [])).places.append(place)
    return list(found.values())


def _describe(module: _Multiplier) -> str:
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


# which layers to keep -------------------------------------------------------------


def _matches(name: str, pattern: str) -> bool:
    """Return True if ``pattern`` matches the module ``name`` or a module that holds it."""
    parts = name.split('.')
    return any(fnmatchcase('.'.join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _kept_by_name(candidates: Sequence[_Candidate], keep: Sequence[str]) -> dict[_Candidate, _Why]:
    kept: dict[_Candidate, _Why] = {}
    for pattern in keep:
        found = [
            candidate
            for candidate in candidates
            if any(_matches(name, pattern) for _, _, name in candidate.places)
        ]
        if not found:
            raise ValueError(f'{shown("keep", pattern)} matches no convolution and no linear layer')
        kept.update(dict.fromkeys(found, _Why(Reason.NAMED, f'keep={pattern!r}')))
    return kept


def _run_example(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, (list, tuple)) else model(example)


def _shares_memory(x: Tensor, others: Sequence[Tensor]) -> bool:
    """Return True if ``x`` is one of ``others`` or shares memory with one of them."""
    memory = x.untyped_storage().data_ptr()
    return any(memory == y.untyped_storage().data_ptr() for y in others)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _ends_by_running(
    model: nn.Module, candidates: Sequence[_Candidate], example: Any
) -> tuple[dict[_Candidate, _Why], dict[int, str]]:
    """Run ``example`` and find the first, the last and the idle layers.

    First layers read ``example``; last layers give the output; idle layers did not run.

    Returns:
        These layers with their reasons. Also a mapping from the id of each layer whose
        weight another module reads to the class of that module.
    """
    given = _tensors(example)
    ran: dict[_Candidate, list[Tensor]] = {}
    first: dict[_Candidate, _Why] = {}

    def watch(candidate: _Candidate) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ran.setdefault(candidate, []).append(output)
            if any(_shares_memory(x, given) for x in inputs):
                first[candidate] = _Why(Reason.FIRST, 'first layer, reads the input')

        return candidate.module.register_forward_hook(hook)

    handles = [watch(candidate) for candidate in candidates]
    reads = WeightReads([candidate.module for candidate in candidates])
    try:
        with inference(model), reads:
            results = _tensors(_run_example(model, example))
    finally:
        for handle in handles:
            handle.remove()
    last = {
        candidate: _Why(Reason.LAST, 'last layer, gives the output')
        for candidate, outputs in ran.items()
        if any(_shares_memory(output, results) for output in outputs)
    }
    order = list(ran)
    idle = [candidate for candidate in candidates if candidate not in ran]
    ends = {
        **dict.fromkeys(idle, _IDLE),
        **(last or dict.fromkeys(order[-1:], _Why(Reason.LAST, 'last layer that ran'))),
        **(first or dict.fromkeys(order[:1], _Why(Reason.FIRST, 'first layer that ran'))),
    }
    return ends, reads.found


def _ends_by_definition(candidates: Sequence[_Candidate]) -> dict[_Candidate, _Why]:
    return {
        **dict.fromkeys(candidates[-1:], _Why(Reason.LAST, 'last layer')),
        **dict.fromkeys(candidates[:1], _Why(Reason.FIRST, 'first layer')),
    }


def _numeric_padding(conv: nn.modules.conv._ConvNd) -> tuple[int, ...] | None:
    """Return the padding in pixels, None if ``'same'`` pads unevenly."""
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
    candidate: _Candidate,
    owners: Mapping[int, list[str]],
    readers: Mapping[int, str],
    expansion: Expansion,
) -> str | None:
    """Return the reason why ES cannot replace the layer, or None if it can."""
    module = candidate.module
    kind = type(module)
    if isinstance(module, BinaryLayer):
        return 'a binary layer already'
    if id(module) in readers:
        return f'{readers[id(module)]} reads its weight'
    if not _computes_as_torch(kind):
        return f'{kind.__name__} is neither nn.Conv2d nor nn.Linear'
    if module._forward_hooks or module._forward_pre_hooks:
        return 'has forward hooks'
    shared = [x for x in owners[id(module.weight)] if x != candidate.name]
    if shared:
        return f'shares its weight with {shared[0]}'
    if isinstance(module, nn.Linear):
        return _indivisible(expansion, module.out_features, 'out_features')
    assert isinstance(module, nn.Conv2d)
    if module.groups > 1:
        depthwise = module.groups == module.in_channels
        return 'depthwise' if depthwise else f'grouped, groups={module.groups}'
    if module.padding_mode != 'zeros' or _numeric_padding(module) is None:
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


# replacing ------------------------------------------------------------------------


def _binary_layer(
    module: _Multiplier, options: Mapping[str, Any], signs: Tensor | None
) -> nn.Module:
    """Build the ES layer that replaces ``module``, with its weights.

    With ``signs`` the output channels of ``module`` are multiplied by these signs first.
    """
    options = dict(options)
    bias = module.bias is not None
    new: ESConv2d | ESLinear
    inner: nn.Conv2d | nn.Linear
    if isinstance(module, nn.Linear):
        del options['pad_value']
        new = ESLinear(module.in_features, module.out_features, bias, **options)
        inner = new.linear
    else:
        geometry: Any = dict(
            kernel_size=module.kernel_size,
            stride=module.stride,
            padding=_numeric_padding(module),
            dilation=module.dilation,
        )
        new = ESConv2d(module.in_channels, module.out_channels, bias=bias, **geometry, **options)
        inner = new.conv
    new = new.to(module.weight)
    new.requires_grad_(module.weight.requires_grad)
    with torch.no_grad():
        inner.weight.copy_(shrunk_weight(_signed(module.weight, signs), new.expansion.tau))
        if new.bias is not None and module.bias is not None:
            new.bias.copy_(_signed(module.bias, signs))
            new.bias.requires_grad_(module.bias.requires_grad)
    return new.train(module.training)


def _output_signs(layer: _Multiplier, tau: int, copy_init: str) -> Tensor:
    """Draw the signs of the copies of the outputs of ``layer``."""
    return copy_signs(layer.weight.shape[0] // tau, tau, copy_init)


def _signed(x: Tensor, signs: Tensor | None) -> Tensor:
    """Multiply every output channel of ``x`` by its sign."""
    return x if signs is None else x * signs.to(x).view(-1, *[1] * (x.dim() - 1))


class _Unsavable:
    """Replacement of ``save_pretrained`` for a model whose config lacks binary layers.

    It raises an error. A saved model would load as a float model with random weights.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f'save_pretrained: the config of this {self.kind} does not say which '
            'layers binarize made binary, so from_pretrained would give them random '
            'weights. Save its state_dict() with torch.save, and load it into a model '
            'that is binarized the same way. For UNets and ControlNets of diffusers use '
            'mmesbnn.diffusion.binarize_unet: its models can be saved'
        )


def _forbid_saving(model: nn.Module) -> None:
    """Replace ``save_pretrained`` of the modules whose config lacks binary layers."""
    for module in model.modules():
        if hasattr(type(module), 'save_pretrained') and _has_binary_layer(module):
            module.save_pretrained = _Unsavable(type(module).__name__)  # type: ignore[assignment]


def _has_binary_layer(model: nn.Module) -> bool:
    return any(isinstance(m, BINARY) for m in model.modules())


@checked_layer(model=MODULE, keep=either(text, sequence(filled_text)))
def binarize(
    model: nn.Module,
    tau: int = 1,
    es_groups: int = 1,
    keep: str | Sequence[str] = (),
    *,
    keep_first: bool = True,
    keep_last: bool = True,
    example: Any = None,
    copy_init: str = 'alike',
    spread: float = 0.5,
    sign: Any = 'quadratic',
    weight_binarizer: Any = 'scaled_sign',
    pad_value: int = 0,
    latent_clip: float | None = None,
    options: BinaryOptions | Mapping[str, Any] | None = None,
) -> BinarizeReport:
    """Replace convolutions and linear layers of ``model``, in place, by binary ones.

    Every eligible ``nn.Conv2d`` becomes an :class:`ESConv2d`, and every ``nn.Linear``
    becomes an :class:`ESLinear`. Input and output shapes stay the same. The layer has as
    many binary weights and multiplications as it had float ones::

        model = torchvision.models.resnet18(weights='DEFAULT')
        report = mmesbnn.binarize(model, tau=2, keep=['*downsample*'])
        print(report)

    Some layers are **kept**. The report gives the reason for each of them:

    - layers that ``keep`` names;
    - the first and the last layer. Without ``example`` these are the first and the last
      layer in the order of definition. This is wrong for a network with several inputs or
      outputs, such as a detector, and for a network that runs in another order: name its
      first and last layers in ``keep``, or give an ``example``. With ``example`` all
      layers that read the input or give an output are kept, and layers that did not run;
    - depthwise and grouped convolutions, transposed, 1-d and 3-d convolutions, subclasses
      of ``nn.Conv2d`` and ``nn.Linear``, layers with hooks (parametrizations, spectral
      norm);
    - layers whose weight another module reads, in the code of its methods
      (``self.proj.weight``) or in the run of ``example``. Examples are the ``out_proj`` of
      ``nn.MultiheadAttention`` and the ``qkv`` of torchvision's Swin. Tied weights, too;
    - layers whose number of outputs cannot be divided by ``tau`` or ``es_groups``, and
      layers with padding other than zeros.

    If the network holds a module under several names, it is replaced under all of them.

    **Initialisation**: latent weights are the float weights, arranged for the copies as
    in :func:`~mmesbnn.binary.shrunk.shrunk_weight`. With ``tau = 1`` signs and scales
    ``mean|w|`` are therefore those of the float layer. Biases are copied. Thresholds of the
    ``tau g`` copies of the input lie evenly in ``[0, 2 spread]``; a single copy has the
    threshold 0. Norms do not change, so train the model, or run some batches in training
    mode, before you judge the result.

    With ``copy_init`` and ``tau > 1`` the copies of an output differ from the first step
    on. Before copies are made, some output channels of the float layer are negated, and the
    gains of the batch norm that reads them are negated, too. The results of the float
    network do not change. This needs a batch norm that is the only reader of the layer's
    output. The report names the layers without such a norm; their copies start with equal
    gains.

    After the call ``save_pretrained`` of the model (diffusers, transformers) raises an
    error, because its config describes the float model.

    Call this function before you make the optimizer. With OpenMMLab, load weights or call
    ``model.init_weights()`` before: afterwards ``init_weights`` would search for layers
    that no longer exist. To load a checkpoint of the result, build and binarize the model
    the same way.

    Args:
        model: Any built model.
        tau: ES factor. Default 1, the plain binary layer with thresholds.
        es_groups: ES groups. Default 1.
        keep: Names or glob patterns of layers to keep, or of modules that hold them. ``*``
            also matches dots. Default ``()``.
        keep_first: Whether to keep the first layer. Default True.
        keep_last: Whether to keep the last layer. Default True.
        example: Input of the model: a tensor, a sequence of arguments or a mapping of
            keyword arguments. The model runs with it, in eval mode, to find the first and
            last layers, and once more with ``copy_init``. Default None.
        copy_init: Channels to negate: none (``'alike'``), each with probability 1/2
            (``'signs'``), or ``tau // 2`` of the copies of every channel
            (``'balanced'``). Needs ``example``. Default ``'alike'``.
        spread: As :class:`ESConv2d`'s, in units of the layers' inputs.
            Default 0.5.
        sign: As :class:`BinaryConv2d`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BinaryConv2d`'s. Default ``'scaled_sign'``.
        pad_value: As :class:`BinaryConv2d`'s; convolutions only. Default 0.
        latent_clip: As :class:`BinaryConv2d`'s. Default None.
        options: Options ``tau``, ``es_groups`` and ``spread`` to ``latent_clip`` in one
            object or mapping, in place of these arguments. Default None.

    Returns:
        Report of the replaced layers and the kept layers, with reasons.

    Raises:
        ValueError: If an argument is not one of the allowed values, if ``copy_init`` is
            given without ``example``, if a pattern in ``keep`` matches nothing, or if no
            layer can be replaced. The model has not changed then.
    """
    short = dict(
        tau=tau,
        es_groups=es_groups,
        spread=spread,
        sign=sign,
        weight_binarizer=weight_binarizer,
        pad_value=pad_value,
        latent_clip=latent_clip,
    )
    options = merged_options(options, short, BinaryOptions())
    expansion = Expansion(options.tau, options.es_groups)
    negates = copy_init != 'alike' and expansion.tau > 1
    if negates and example is None:
        raise ValueError(
            f'copy_init={copy_init!r} needs example: a run shows which batch norm reads which layer'
        )
    candidates = _candidates(model)
    kept = _kept_by_name(candidates, [keep] if isinstance(keep, str) else keep)
    readers = read_by_definition(model)
    if example is None:
        ends = _ends_by_definition(candidates)
    else:
        ends, seen = _ends_by_running(model, candidates, example)
        readers.update(seen)
        ends = {x: w for x, w in ends.items() if w != _IDLE or id(x.module) not in readers}
    if not keep_first:
        ends = {x: w for x, w in ends.items() if w.reason is not Reason.FIRST}
    if not keep_last:
        ends = {x: w for x, w in ends.items() if w.reason is not Reason.LAST}
    owners = _owners(model)
    for candidate in candidates:
        obstacle = _obstacle(candidate, owners, readers, expansion)
        why = ends.get(candidate) or (obstacle and _Why(Reason.OBSTACLE, obstacle))
        if why:
            kept.setdefault(candidate, why)
    replaced = [x for x in candidates if x not in kept]
    layers = [x.module for x in replaced]
    norms: dict[nn.Module, list[_BatchNorm]] = {}
    if negates:
        norms = norms_behind(model, layers, lambda: _run_example(model, example))
    signs = {x: _output_signs(x, expansion.tau, copy_init) for x in layers if x in norms}
    new = {x: _binary_layer(x.module, options.arguments(), signs.get(x.module)) for x in replaced}
    report = BinarizeReport(
        [_report_entry(x, kept.get(x), new.get(x), negates, x.module in signs) for x in candidates],
        options,
    )
    if not new:
        raise ValueError(f'nothing to binarize in {type(model).__name__}:\n{report}')
    for candidate, layer in new.items():
        for parent, attribute, _ in candidate.places:
            setattr(parent, attribute, layer)
        if candidate.module in signs:
            flip_channels(norms[candidate.module], signs[candidate.module])
    _forbid_saving(model)
    setattr(model, REPORTS, (*getattr(model, REPORTS, ()), report))
    return report


def _report_entry(
    candidate: _Candidate, kept: _Why | None, new: nn.Module | None, negates: bool, negated: bool
) -> BinarizedLayer:
    name, *aliases = (name for _, _, name in candidate.places)
    module = candidate.module
    why = kept.text if kept else f'now {type(new).__name__}'
    if new is not None and negates and not negated:
        why += ', its copies start alike: no batch norm alone reads them'
    return BinarizedLayer(
        name=name,
        layer=_describe(module),
        replaced=new is not None,
        reason=kept.reason if kept else Reason.REPLACED,
        why=why,
        weights=0 if is_lazy(module.weight) else module.weight.numel(),
        aliases=tuple(aliases),
    )
