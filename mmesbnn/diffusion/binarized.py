"""Binary convolutions in the UNets and ControlNets of diffusers.

Importing this module changes ``from_config`` and ``from_pretrained`` of diffusers' float
classes: they build the binary model if the config describes one. Training scripts name the
float classes, for example in ``EMAModel(model_cls=UNet2DConditionModel)``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from diffusers import ControlNetModel

# diffusers looks ModelMixin up in this module when it loads a whole pipeline
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from ..binary.arguments import checked_layer
from ..binary.binarize_report import BinarizeReport
from ..binary.options import BinaryOptions, merged_options, refuse_both
from ..checks import checked
from ..old_forms import current_options
from .folders import UNETS, LocalModel, check_unet, is_narrow, load_signs, load_unet
from .layer_choice import eligible_layers, replace_layers
from .named import KEEP, NAMED, is_ours

#: Key of a model's config that holds its binary layers. diffusers accepts unknown keys that
#: begin with an underscore.
CONFIG_KEY = '_mmesbnn_binarized'


class _Binarized(LocalModel):
    """Base of the model classes of diffusers that build binary layers from their config."""

    config: Any  # of the other base class

    @classmethod
    def from_config(
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build the model with the binary layers that ``config`` names."""
        result = super().from_config(config, return_unused_kwargs, **kwargs)  # type: ignore[misc]
        model = result[0] if return_unused_kwargs else result
        done = model.config.get(CONFIG_KEY)
        if done is None:
            raise ValueError(
                f'the config of this {cls.__name__} does not say which layers are '
                f'binary: it lacks {CONFIG_KEY}'
            )
        options = BinaryOptions.from_dict(current_options(done['options']))
        replace_layers(model, done['layers'], (), options)
        return result


class BinarizedUNet2DModel(_Binarized, UNet2DModel):  # type: ignore[misc]
    """A ``UNet2DModel`` with binary layers, from :func:`binarize_unet`."""


class BinarizedUNet2DConditionModel(_Binarized, UNet2DConditionModel):  # type: ignore[misc]
    """A ``UNet2DConditionModel`` with binary layers, from :func:`binarize_unet`."""


class BinarizedControlNetModel(_Binarized, ControlNetModel):
    """A ``ControlNetModel`` with binary layers, from :func:`binarize_unet`."""


_CLASSES: dict[type[Any], type[Any]] = {
    UNet2DModel: BinarizedUNet2DModel,
    UNet2DConditionModel: BinarizedUNet2DConditionModel,
    ControlNetModel: BinarizedControlNetModel,
}


def _quantize(model: Any) -> None:
    """Make a new model binary whose config names the layers.

    ``from_pretrained`` builds on the meta device, and replaces layers itself.
    """
    from .quantization_config import BinaryConfig
    from .quantizer import apply_config

    stored = model.config['quantization_config']
    config = BinaryConfig.from_dict(stored) if isinstance(stored, Mapping) else stored
    if config.layers is not None and not next(model.parameters()).is_meta:
        apply_config(model, config)


def _lead_to_binary(plain: type[Any], binary: type[Any]) -> None:
    """Make ``plain`` build and load ``binary`` if the config describes one."""

    def from_config(
        cls: type, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build the model; it is binary if ``config`` says so."""
        if cls is plain and isinstance(config, Mapping) and CONFIG_KEY in config:
            return binary.from_config(config, return_unused_kwargs, **kwargs)
        of_base: Any = super(plain, cls)
        result = of_base.from_config(config, return_unused_kwargs, **kwargs)
        if isinstance(config, Mapping) and is_ours(config.get('quantization_config')):
            _quantize(result[0] if return_unused_kwargs else result)
        return result

    def from_pretrained(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        """Load the model; binary weights keep their signs in a narrow dtype."""
        load = cast(Any, super(plain, cls)).from_pretrained
        narrow = cls is plain and any(map(is_narrow, kwargs.values()))
        if narrow and CONFIG_KEY in cls.load_config(*args, **kwargs):
            return load_signs(load, *args, **kwargs)
        return load(*args, **kwargs)

    plain.from_config = classmethod(from_config)
    plain.from_pretrained = classmethod(from_pretrained)


for _plain, _binary in _CLASSES.items():
    _lead_to_binary(_plain, _binary)

_CONTROLNET: Any = ControlNetModel
_controlnet_from_unet = _CONTROLNET.from_unet.__func__


def _from_unet(
    cls: type, unet: Any, *args: Any, load_weights_from_unet: bool = True, **kwargs: Any
) -> Any:
    """Build a ControlNet for ``unet``, with the same binary layers if ``unet`` is binary."""
    quantizer = getattr(unet, 'hf_quantizer', None)
    of_quantizer = quantizer is not None and is_ours(quantizer.quantization_config)
    if not isinstance(unet, _Binarized) and not of_quantizer:
        return _controlnet_from_unet(
            cls, unet, *args, load_weights_from_unet=load_weights_from_unet, **kwargs
        )
    model = _controlnet_from_unet(cls, unet, *args, load_weights_from_unet=False, **kwargs)
    names = dict(model.named_modules())
    if of_quantizer:
        from .quantizer import apply_config

        config = cast(Any, quantizer).quantization_config.copy()
        config.layers = [name for name in config.layers if name in names]
        apply_config(model, config)
    else:
        done = unet.config[CONFIG_KEY]
        layers = [name for name in done['layers'] if name in names]
        options = BinaryOptions.from_dict(current_options(done['options']))
        _mark(model, replace_layers(model, layers, (), options), options)
    if load_weights_from_unet:
        own, source = model.state_dict().keys(), cast(Any, unet)
        state = {name: x for name, x in source.state_dict().items() if name in own}
        model.load_state_dict(state, strict=False)
    return model


_CONTROLNET.from_unet = classmethod(_from_unet)


def _mark(model: ModelMixin, report: BinarizeReport, options: BinaryOptions) -> None:
    """Store the binary layers in the config of ``model``, and change its class."""
    done = dict(layers=[layer.name for layer in report.replaced], options=options.to_dict())
    model.__class__ = _CLASSES[type(model)]
    model.register_to_config(**{CONFIG_KEY: done})


@checked_layer(keep=KEEP, sign=NAMED, weight_binarizer=NAMED)
def binarize_unet(
    unet: ModelMixin,
    tau: int = 2,
    es_groups: int = 1,
    keep: str | Sequence[str] = (),
    *,
    attention: bool = False,
    shortcuts: bool = False,
    spread: float = 0.5,
    sign: str | dict[str, Any] = 'quadratic',
    weight_binarizer: str | dict[str, Any] = 'scaled_sign',
    pad_value: int = 0,
    latent_clip: float | None = None,
    options: BinaryOptions | Mapping[str, Any] | None = None,
) -> BinarizeReport:
    """Replace convolutions of a diffusers UNet, in place, by binary ES convolutions.

    The convolutions of residual blocks, downsamplers and upsamplers become
    :class:`~mmesbnn.binary.ESConv2d`. They have as many binary weights and multiplications
    as they had float ones, and start from the float weights::

        unet = UNet2DModel.from_pretrained(folder)
        print(binarize_unet(unet, tau=2))  # replaced layers, kept layers, and reasons
        ...  # train it
        unet.save_pretrained('binary')
        unet = load_binarized('binary')

    The first and the last convolution, embeddings of timesteps and classes, 1x1 shortcuts
    and attention stay float. A binary UNet has its own class, for example
    :class:`BinarizedUNet2DModel`, and its own config. With these it can be loaded again,
    also as part of a pipeline. After ``import mmesbnn.diffusion.binarized``, pipelines of
    diffusers and the class of the float UNet can load it, too.

    Args:
        unet: A ``UNet2DModel``, ``UNet2DConditionModel`` or ``ControlNetModel``, without
            LoRA adapters around the layers to replace. To get a ControlNet for a binary
            UNet, call ``ControlNetModel.from_unet(unet)``.
        tau: ES factor. Default 2.
        es_groups: ES groups. Default 1.
        keep: Names or glob patterns of further layers to keep, or of modules that hold
            them, as in :func:`mmesbnn.binarize`. Default ``()``.
        attention: Whether to replace the linear layers of attention and its
            feed-forward, too. Default False.
        shortcuts: Whether to replace the 1x1 convolutions of shortcuts, too. Default
            False.
        spread: Initial thresholds of the input's copies lie evenly in ``[0,
            2 spread]``. Default 0.5.
        sign: As :class:`~mmesbnn.binary.BinaryConv2d`'s, a name or dict. Default
            ``'quadratic'``.
        weight_binarizer: As :class:`~mmesbnn.binary.BinaryConv2d`'s, a name or dict.
            Default ``'scaled_sign'``.
        pad_value: As :class:`~mmesbnn.binary.BinaryConv2d`'s: -1, 0 or 1. Default 0.
        latent_clip: As :class:`~mmesbnn.binary.BinaryConv2d`'s. Default None.
        options: Options ``tau``, ``es_groups`` and ``spread`` to ``latent_clip`` in one
            object or mapping, in place of these arguments. With a
            :class:`~mmesbnn.diffusion.quantization_config.BinaryConfig`, in place of all
            arguments, the model is as ``from_pretrained(quantization_config=...)`` makes
            it: it can be of any class, keeps its class, and is saved as bits. Default
            None.

    Returns:
        Report of the replaced layers and the kept layers, with reasons. It prints as a
        table.

    Raises:
        ValueError: If ``unet`` is of another class, is already binary or has no layer to
            replace; if an argument is not one of the allowed values; or if a pattern in
            ``keep`` matches nothing. The model has not changed then.
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
    default = BinaryOptions(tau=2)
    if is_ours(options):  # old releases of diffusers have no BinaryConfig
        choice = dict(keep=keep, attention=attention, shortcuts=shortcuts)
        plain = dict(keep=(), attention=False, shortcuts=False)
        refuse_both({**choice, **short}, {**plain, **default.arguments()})
        from .quantizer import apply_config

        return apply_config(unet, cast(Any, options))
    if isinstance(unet, tuple(_CLASSES.values())):
        raise ValueError(f'unet is a {type(unet).__name__}: it is already binary')
    if type(unet) not in _CLASSES:
        names = ' or a '.join(known.__name__ for known in _CLASSES)
        raise ValueError(
            f'unet is a {type(unet).__name__}, not a {names}; mmesbnn.binarize takes any module'
        )
    options = merged_options(options, short, default)
    options.to_dict()  # raises an error for an option that the config cannot store
    layers = eligible_layers(unet, attention, shortcuts)
    keep = [keep] if isinstance(keep, str) else list(keep)
    report = replace_layers(unet, layers, keep, options)
    _mark(unet, report, options)
    return report


@checked()
def load_binarized(
    folder: str | os.PathLike[str], subfolder: str = '', **kwargs: Any
) -> ModelMixin:
    """Load a UNet that :func:`binarize_unet` made binary and ``save_pretrained`` saved.

    Args:
        folder: Folder that ``save_pretrained`` wrote.
        subfolder: Folder of the UNet in it, for example ``'unet'`` in a pipeline. Default
            ``''``.
        **kwargs: Passed to ``from_pretrained``, such as ``torch_dtype``.

    Raises:
        FileNotFoundError: If there is no ``config.json``, or no weights.
        ValueError: If the folder holds another model, or is damaged.
    """
    path = Path(folder, subfolder) / 'config.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file; save_pretrained writes it')
    own = {known.__name__: known for known in _CLASSES.values()}
    name = check_unet(path.parent, [*UNETS, *own])
    if name in own:
        return load_unet(own[name], path.parent, **kwargs)
    raise ValueError(f'{path}: describes a {name}, which binarize_unet has not made binary')
