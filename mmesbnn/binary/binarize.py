"""Replacement of the convolutions and linear layers of a built network by binary ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checks import either, filled_text, sequence, text
from .arguments import MODULE, checked_layer
from .binarize_report import BinarizedLayer, BinarizeReport, entry_of
from .es_layers import ESConv2d, ESLinear
from .expansion import Expansion, copy_signs
from .modes import plain_defaults
from .norms_behind import flip_channels, norms_behind
from .options import BinaryOptions, merged_options
from .replaceable import (
    Candidate,
    Multiplier,
    Why,
    candidates_of,
    kept_layers,
    numeric_padding,
    run_example,
)
from .shrunk import shrunk_weight

#: Attribute of a model with the reports of its replaced layers, for files.
REPORTS = '_binarize_reports'

#: Classes of the layers that replace them.
BINARY = (ESConv2d, ESLinear)


@plain_defaults()  # not those of torch, which can be another dtype or device than the layer's
@torch.inference_mode(False)  # in it parameters could never be trained
def _binary_layer(
    module: Multiplier, options: Mapping[str, Any], signs: Tensor | None
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
            padding=numeric_padding(module),
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


def _output_signs(layer: Multiplier, tau: int, copy_init: str) -> Tensor:
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
      layers that read the input or give an output are kept, and layers that did not run.
      Code without layers may scale, resize or join inputs before, and compute scores or
      boxes afterwards. Inputs and outputs can be attributes of objects, such as the data
      samples of OpenMMLab. The layers of region proposals, as in Faster R-CNN, give no
      output, only regions for other layers: ``keep='rpn*'`` keeps them;
    - depthwise and grouped convolutions, transposed, 1-d and 3-d convolutions, subclasses
      of ``nn.Conv2d`` and ``nn.Linear``, layers with hooks (parametrizations, spectral
      norm, hooks of gradients) or with a replaced ``forward`` (accelerate's offloading);
    - layers whose weight another module reads, in the code of its methods
      (``self.proj.weight``) or in the run of ``example``. Examples are the ``out_proj`` of
      ``nn.MultiheadAttention`` and the ``qkv`` of torchvision's Swin. Tied weights, too;
    - layers that an ordinary attribute also holds, such as a list that is no
      ``nn.ModuleList``, because the network would go on to run the float layer; and those
      whose weight it holds, as in ``DistributedDataParallel``: binarize before you wrap;
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
    output and reads nothing else. The report names the layers without such a norm; their
    copies start with equal gains.

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
    candidates = candidates_of(model)
    kept = kept_layers(
        model,
        candidates,
        expansion,
        keep=[keep] if isinstance(keep, str) else keep,
        keep_first=keep_first,
        keep_last=keep_last,
        example=example,
    )
    layers = [x.module for x in candidates if x not in kept]
    norms: dict[nn.Module, list[_BatchNorm]] = {}
    if negates:
        norms = norms_behind(model, layers, lambda: run_example(model, example))
    signs: dict[nn.Module, Tensor] = {
        x: _output_signs(x, expansion.tau, copy_init) for x in layers if x in norms
    }
    report = replace_candidates(model, candidates, kept, options, signs if negates else None)
    for layer, negative in signs.items():
        flip_channels(norms[layer], negative)
    return report


def replace_candidates(
    model: nn.Module,
    candidates: Sequence[Candidate],
    kept: Mapping[Candidate, Why],
    options: BinaryOptions,
    signs: Mapping[nn.Module, Tensor] | None = None,
) -> BinarizeReport:
    """Replace the layers of a network that are not kept.

    Args:
        model: The network, changed in place.
        candidates: Its layers that multiply.
        kept: Those that stay, with reasons.
        options: How the others become binary.
        signs: Signs of the output channels of layers, by which their weights are multiplied
            first; the report then names the layers without any. Default None: none.

    Raises:
        ValueError: If there is nothing to replace.
    """
    given = signs or {}
    new = {
        x.module: _binary_layer(x.module, options.arguments(), given.get(x.module))
        for x in candidates
        if x not in kept
    }
    entries = [entry_of(x, kept.get(x), new.get(x.module)) for x in candidates]
    if signs is not None:
        entries = [_with_remark(one, x.module in signs) for one, x in zip(entries, candidates)]
    report = BinarizeReport(entries, options)
    if not new:
        raise ValueError(f'nothing to binarize in {type(model).__name__}:\n{report}')
    for candidate in candidates:
        if candidate.module in new:
            for parent, attribute, _ in candidate.places:
                setattr(parent, attribute, new[candidate.module])
    _forbid_saving(model)
    setattr(model, REPORTS, (*getattr(model, REPORTS, ()), report))
    return report


def _with_remark(layer: BinarizedLayer, negated: bool) -> BinarizedLayer:
    """Say of a replaced layer whose outputs were not negated that its copies start alike."""
    if negated or not layer.replaced:
        return layer
    remark = ', its copies start alike: no batch norm alone reads them'
    return replace(layer, why=layer.why + remark)
