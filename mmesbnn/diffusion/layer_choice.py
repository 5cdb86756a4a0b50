"""Choice of the layers in models of diffusers that become binary, and their replacement."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from ..binary import BinarizeReport, BinaryOptions, binary_layers
from ..binary.binarize import REPORTS
from ..binary.replaced import binarize_layers
from ..errors import shorten

#: Children of these modules that become binary.
_CONVOLUTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    ResnetBlock2D: ('conv1', 'conv2'),
    ResnetBlockCondNorm2D: ('conv1', 'conv2'),
    Downsample2D: ('conv',),
    Upsample2D: ('conv', 'Conv2d_0'),
}
_SHORTCUTS: dict[type[nn.Module], tuple[str, ...]] = {
    ResnetBlock2D: ('conv_shortcut',),
    ResnetBlockCondNorm2D: ('conv_shortcut',),
}
_OF_ATTENTION = (
    'to_q',
    'to_k',
    'to_v',
    'to_out.0',
    'add_q_proj',
    'add_k_proj',
    'add_v_proj',
    'to_add_out',
)
_PROJECTIONS: dict[type, tuple[str, ...]] = {
    Attention: _OF_ATTENTION,
    AttentionModuleMixin: _OF_ATTENTION,  # attention of newer models, such as Flux
    FeedForward: ('net.0.proj', 'net.2'),
    Transformer2DModel: ('proj_in', 'proj_out'),
}

#: Reasons for keeping the other layers, by their own name, and by a part of the whole name.
_ENDS = {'conv_in': 'first layer', 'conv_out': 'last layer', 'conv_shortcut': 'shortcut'}
_REASONS = {'time': 'timestep embedding', 'class_embedding': 'class embedding'}
#: Reasons for keeping the layers that an option replaces.
_OPTIONAL = (
    (_SHORTCUTS, 'shortcut; shortcuts=True replaces it'),
    (_PROJECTIONS, 'attention; attention=True replaces it'),
)


def _is_fused(module: nn.Module) -> bool:
    """Return whether attention runs one layer in place of those for q, k and v."""
    if not getattr(module, 'fused_projections', False):
        return False
    if isinstance(module, AttentionModuleMixin):
        return True
    # the flag of the older class stays after unfuse_qkv_projections
    return type(getattr(module, 'processor', None)).__name__.startswith('Fused')


def _described(
    model: nn.Module, table: Mapping[type, Sequence[str]]
) -> Iterator[tuple[str, nn.Module, list[tuple[str, nn.Module]]]]:
    """Yield the modules of ``model`` that ``table`` names, with their children in it."""
    for name, module in model.named_modules():
        if not name:  # the first and last layers of the model itself stay
            continue
        children = next((x for kind, x in table.items() if isinstance(module, kind)), ())
        inside = dict(module.named_modules(remove_duplicate=False)) if children else {}
        yield name, module, [(f'{name}.{x}', inside[x]) for x in children if x in inside]


def _found(model: nn.Module, table: Mapping[type, Sequence[str]]) -> Iterator[str]:
    """Yield the names of the layers of ``model`` that ``table`` describes."""
    for owner, module, children in _described(model, table):
        if children and _is_fused(module):
            raise ValueError(
                f'unet: {owner} runs one fused layer in place of the layers that become binary: '
                'call unfuse_qkv_projections() first'
            )
        for name, layer in children:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                yield name
            elif any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in layer.modules()):
                raise ValueError(
                    f'unet: {name} is a {type(layer).__name__} of '
                    f'{type(layer).__module__.partition(".")[0]} around the layer, such as '
                    'a LoRA adapter: binarize first and then add adapters, or merge and '
                    'unload them first'
                )


def eligible_layers(model: nn.Module, attention: bool, shortcuts: bool) -> list[str]:
    """Return the names of the layers of a float model that become binary.

    Args:
        model: Model of diffusers.
        attention: Whether linear layers of attention and its feed-forward belong to them.
        shortcuts: Whether 1x1 convolutions of shortcuts belong to them.

    Raises:
        ValueError: If there is no such layer, if the model has binary layers already, or if
            an adapter is around such a layer, or fused attention does not run it.
    """
    kind = type(model).__name__
    if binary_layers(model):
        raise ValueError(f'this {kind} is already binary')
    tables = [_CONVOLUTIONS]
    tables += [_PROJECTIONS] if attention else []
    tables += [_SHORTCUTS] if shortcuts else []
    layers = [name for table in tables for name in _found(model, table)]
    if not layers:
        more = (
            ''
            if attention or not any(_found(model, _PROJECTIONS))
            else ('; attention=True replaces linear layers of its attention')
        )
        raise ValueError(
            f'this {kind} has no layer to binarize: it has no residual block, '
            f'downsampler or upsampler with a convolution{more}'
        )
    return layers


def _optional(model: nn.Module) -> dict[str, str]:
    """Map the names of the layers that an option replaces to the reason that names it."""
    return {
        name: why
        for table, why in _OPTIONAL
        for _, _, children in _described(model, table)
        for name, _ in children
    }


def _reason(name: str) -> str:
    """Return the reason for keeping a layer that no option replaces."""
    own = _ENDS.get(name.rpartition('.')[2])
    return own or next((why for part, why in _REASONS.items() if part in name), 'other layer')


def replace_layers(
    model: nn.Module, layers: Sequence[str], keep: Sequence[str], options: BinaryOptions
) -> BinarizeReport:
    """Replace ``layers``, except those that ``keep`` matches; report reasons for the rest.

    Afterwards the caller must store the layers in the model's config.

    Raises:
        ValueError: If one of the layers does not exist or cannot become binary.
    """
    names = dict(model.named_modules())
    for name in layers:
        if not isinstance(names.get(name), (nn.Conv2d, nn.Linear)):
            raise ValueError(
                f'{type(model).__name__} has no convolution and no linear layer '
                f'{shorten(repr(name), 100)}'
            )
    optional = _optional(model)
    report = binarize_layers(model, layers, options, keep)
    # with its config the model can be saved
    del model.save_pretrained
    delattr(model, REPORTS)
    return BinarizeReport(
        [
            layer
            if layer.replaced or layer.name in layers
            else dataclasses.replace(layer, why=optional.get(layer.name) or _reason(layer.name))
            for layer in report
        ],
        options,
    )
