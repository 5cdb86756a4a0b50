"""Binary convolutions in the UNets of diffusers."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D

# ModelMixin is looked up in this module when a whole pipeline is loaded
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from ..binary.binarize import BinarizeReport, binarize

#: Where a model's config has what was done to it; diffusers lets such names pass.
CONFIG_KEY = '_mmesbnn_binarized'

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
_PROJECTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    Attention: (
        'to_q', 'to_k', 'to_v', 'to_out.0', 'add_q_proj', 'add_k_proj', 'add_v_proj',
        'to_add_out',
    ),
    FeedForward: ('net.0.proj', 'net.2'),
    Transformer2DModel: ('proj_in', 'proj_out'),
}  # fmt: skip

#: Why the other layers are kept, by a part of their name.
_REASONS = {
    'conv_in': 'first layer',
    'conv_out': 'last layer',
    'conv_shortcut': 'shortcut; shortcuts=True replaces it',
    'time': 'timestep embedding',
    'class_embedding': 'class embedding',
    'attention': 'attention; attention=True replaces it',
}


class _Binarized:
    """What a diffusers model class needs to build its binary layers from its config."""

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build the model, its layers replaced as ``config`` says."""
        result = super().from_config(config, return_unused_kwargs, **kwargs)  # type: ignore[misc]
        model = result[0] if return_unused_kwargs else result
        done = model.config.get(CONFIG_KEY)
        if done is None:
            raise ValueError(
                f'the config of this {cls.__name__} does not say which layers are '
                f'binary: it lacks {CONFIG_KEY}'
            )
        _replace(model, done['layers'], (), done['options'])
        return result


class BinarizedUNet2DModel(_Binarized, UNet2DModel):
    """A ``UNet2DModel`` with binary layers, from :func:`binarize_unet`."""


class BinarizedUNet2DConditionModel(_Binarized, UNet2DConditionModel):
    """A ``UNet2DConditionModel`` with binary layers, from :func:`binarize_unet`."""


_CLASSES: dict[type[ModelMixin], type[ModelMixin]] = {
    UNet2DModel: BinarizedUNet2DModel,
    UNet2DConditionModel: BinarizedUNet2DConditionModel,
}


def _found(unet: nn.Module, table: Mapping[type, Sequence[str]]) -> Iterator[str]:
    """Names of the layers that ``table`` means, in ``unet``."""
    for name, module in unet.named_modules():
        for child in table.get(type(module), ()):
            try:
                layer = module.get_submodule(child)
            except AttributeError:  # an optional part
                continue
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                yield f'{name}.{child}'


def _reason(name: str) -> str:
    return next((why for part, why in _REASONS.items() if part in name), 'other layer')


def _replace(
    unet: nn.Module, layers: Sequence[str], keep: Sequence[str], options: Mapping
) -> BinarizeReport:
    """Replace ``layers`` but those that ``keep`` matches; say why others were kept."""
    wanted = {id(unet.get_submodule(name)) for name in layers}
    others = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
        and id(module) not in wanted
    ]
    report = binarize(
        unet, keep=[*keep, *others], keep_first=False, keep_last=False, **options
    )
    reasons = {f'keep={name!r}': _reason(name) for name in others}
    return BinarizeReport(
        [
            dataclasses.replace(layer, why=reasons.get(layer.why, layer.why))
            for layer in report
        ]
    )


def binarize_unet(
    unet: ModelMixin, tau: int = 2, groups: int = 1, keep: str | Sequence[str] = (), *,
    attention: bool = False, shortcuts: bool = False, spread: float = 0.5,
    sign: str | dict = 'quadratic', weight_binarizer: str | dict = 'scaled_sign',
    pad_value: int = 0, latent_clip: float | None = None,
) -> BinarizeReport:  # fmt: skip
    """Replace convolutions of a diffusers UNet, in place, by ES binary ones.

    Those of residual blocks, down- and upsamplers become
    :class:`~mmesbnn.binary.DropInESConv2d`, with as many binary weights and
    multiplications as they had float ones, initialised from the float weights::

        unet = UNet2DModel.from_pretrained(folder)
        print(binarize_unet(unet, tau=2))  # what was replaced, what was kept, and why
        ...  # train it
        unet.save_pretrained('binary')
        unet = load_binarized('binary')

    The first and the last convolution, embeddings of timesteps and classes, 1x1
    shortcuts and attention stay. A binary UNet has a class and a config of its own,
    :class:`BinarizedUNet2DModel`, by which it and pipelines with it are loaded again;
    the class of the float UNet would not find its weights. Pipelines of diffusers load
    it once this module is imported: ``import mmesbnn.diffusion.binarized``.

    Args:
        unet: A ``UNet2DModel`` or ``UNet2DConditionModel``.
        tau: ES factor. Default 2.
        groups: ES groups. Default 1.
        keep: Names or glob patterns of further layers to keep, or of modules that hold
            them, as in :func:`mmesbnn.binarize`. Default none.
        attention: Whether to replace the linear layers of attention and its
            feed-forward, too. Default False.
        shortcuts: Whether to replace the 1x1 convolutions of shortcuts, too. Default
            False.
        spread: Initial thresholds of the input's copies lie evenly in ``[-spread,
            spread]``. Default 0.5.
        sign: As :class:`~mmesbnn.binary.BinaryConv2d`'s, a name or dict. Default
            ``'quadratic'``.
        weight_binarizer: Likewise. Default ``'scaled_sign'``.
        pad_value: Likewise, -1, 0 or 1. Default 0.
        latent_clip: Likewise. Default None.

    Returns:
        What was replaced, what was kept, and why; prints as a table.

    Raises:
        ValueError: Before anything is changed: if ``unet`` is of another class, binary
            already or has nothing to replace; if an argument is not one of the allowed
            values; or if a pattern in ``keep`` matches nothing.
    """
    if isinstance(unet, tuple(_CLASSES.values())):
        raise ValueError(f'unet is a {type(unet).__name__}: it is binary already')
    if type(unet) not in _CLASSES:
        names = ' or a '.join(known.__name__ for known in _CLASSES)
        raise ValueError(
            f'unet is a {type(unet).__name__}, not a {names}; mmesbnn.binarize takes '
            'any module'
        )
    options = dict(
        tau=tau, groups=groups, spread=spread, sign=sign,
        weight_binarizer=weight_binarizer, pad_value=pad_value, latent_clip=latent_clip,
    )  # fmt: skip
    for name in ('sign', 'weight_binarizer'):
        if isinstance(options[name], nn.Module):
            raise ValueError(
                f'{name}={options[name]!r}: give its name or a dict, which the config '
                'of the model can store'
            )
    tables = [_CONVOLUTIONS]
    tables += [_PROJECTIONS] if attention else []
    tables += [_SHORTCUTS] if shortcuts else []
    layers = [name for table in tables for name in _found(unet, table)]
    if not layers:
        raise ValueError(
            f'this {type(unet).__name__} has nothing to binarize: no residual block, '
            'down- or upsampler with a convolution'
        )
    keep = [keep] if isinstance(keep, str) else list(keep)
    report = _replace(unet, layers, keep, options)
    done = dict(layers=[layer.name for layer in report.replaced], options=options)
    unet.__class__ = _CLASSES[type(unet)]
    unet.register_to_config(**{CONFIG_KEY: done})
    return report


def load_binarized(folder: str | os.PathLike, **kwargs: Any) -> ModelMixin:
    """Load a UNet that :func:`binarize_unet` made binary and ``save_pretrained`` saved.

    Args:
        folder: The folder it was saved to.
        **kwargs: Passed to ``from_pretrained``, such as ``torch_dtype``.

    Raises:
        FileNotFoundError: If there is no ``config.json``.
        ValueError: If it is that of another model.
    """
    path = Path(folder) / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; save_pretrained writes it')
    name = json.loads(path.read_text()).get('_class_name')
    for known in _CLASSES.values():
        if known.__name__ == name:
            return known.from_pretrained(folder, **kwargs)
    raise ValueError(f'{path}: describes a {name}, which binarize_unet has not made')
