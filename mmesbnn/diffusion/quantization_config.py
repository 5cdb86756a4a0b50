"""Options of binary models in the form of diffusers' ``quantization_config``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from diffusers.quantizers.quantization_config import QuantizationConfigMixin

from ..binary import BinaryOptions
from ..binary.arguments import checked_layer
from ..binary.entries import SIGNS, WEIGHT_BINARIZERS, own_entries_only
from ..checks import check, mapping, one_of, shown
from .named import FACTOR, KEEP, LAYERS, METHOD, NAMED


class Method(str, Enum):
    """Name of the method in the form that diffusers expects."""

    MMESBNN = METHOD


def _refuse_others(argument: str, spec: str | Mapping[str, Any], own: Mapping[str, type]) -> None:
    """Refuse a class of another package, because a saved model could not name it."""
    if (spec if isinstance(spec, str) else spec['type']) not in own:
        raise ValueError(
            f'{shown(argument, spec)} must be of this package, because a model that is loaded '
            'cannot name others; binarize_unet without BinaryConfig takes them'
        )


class BinaryConfig(QuantizationConfigMixin):
    """Options with which ``from_pretrained`` of diffusers makes a model binary.

    Usage::

        config = mmesbnn.BinaryConfig(tau=2)
        unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
        ...  # train it
        unet.save_pretrained('binary')
        unet = UNet2DModel.from_pretrained('binary')

    The layers and their options are those of
    :func:`~mmesbnn.diffusion.binarized.binarize_unet`.

    Args:
        tau: ES factor. Default 2.
        es_groups: ES groups. Default 1.
        keep: Names or glob patterns of further layers to keep, or of modules that hold
            them. Default ``()``.
        attention: Whether to replace linear layers of attention and its feed-forward, too.
            A transformer has no other layers to replace. Default False.
        shortcuts: Whether to replace 1x1 convolutions of shortcuts, too. Default False.
        spread: Initial thresholds of the input's copies lie evenly in ``[0,
            2 spread]``. Default 0.5.
        sign: As :class:`~mmesbnn.binary.BinaryConv2d`'s, a name or dict of this package.
            Default ``'quadratic'``.
        weight_binarizer: As :class:`~mmesbnn.binary.BinaryConv2d`'s, a name or dict of this
            package. After packed weights were loaded it is ``'learned_scale'``: the scales are
            parameters, which start at the stored scales. Default ``'scaled_sign'``.
        pad_value: As :class:`~mmesbnn.binary.BinaryConv2d`'s: -1, 0 or 1. Default 0.
        latent_clip: As :class:`~mmesbnn.binary.BinaryConv2d`'s. Default None.
        layers: Names of the layers to replace, in place of the choice by ``keep``,
            ``attention`` and ``shortcuts``. A saved model stores them here. Default None.
        packed: Whether ``save_pretrained`` stores one bit per binary weight. If False, it
            stores the latent weights, so that a training can continue exactly. It can be
            changed before a model is saved: ``model.config.quantization_config.packed``.
            Default True.

    Raises:
        ValueError: If an argument is not one of the allowed values.
    """

    @checked_layer(
        tau=FACTOR, es_groups=FACTOR, keep=KEEP, sign=NAMED, weight_binarizer=NAMED, layers=LAYERS
    )
    def __init__(
        self,
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
        layers: Sequence[str] | None = None,
        packed: bool = True,
    ) -> None:
        super().__init__(Method.MMESBNN)  # type: ignore[arg-type]  # no member of diffusers' own
        self.tau = tau
        self.es_groups = es_groups
        self.keep = [keep] if isinstance(keep, str) else list(keep)
        self.attention = attention
        self.shortcuts = shortcuts
        self.spread = spread
        self.sign = sign
        self.weight_binarizer = weight_binarizer
        self.pad_value = pad_value
        self.latent_clip = latent_clip
        self.layers = None if layers is None else list(layers)
        self.packed = packed
        _ = self.options  # raises an error for an unknown sign or binarizer
        _refuse_others('sign', self.sign, SIGNS.own)
        _refuse_others('weight_binarizer', self.weight_binarizer, WEIGHT_BINARIZERS.own)

    @property
    def options(self) -> BinaryOptions:
        """Options of the binary layers."""
        return BinaryOptions(
            tau=self.tau,
            es_groups=self.es_groups,
            spread=self.spread,
            sign=self.sign,
            weight_binarizer=self.weight_binarizer,
            pad_value=self.pad_value,
            latent_clip=self.latent_clip,
        )

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """Build the config from what :meth:`to_dict` gave, maybe of an unknown source.

        Args:
            config_dict: Options by name, with ``quant_method``.
            return_unused_kwargs: Whether to return a pair: the config, and the keyword
                arguments that are no options. Default False.
            **kwargs: Options that replace those of the dict.

        Raises:
            ValueError: If an option is unknown or not one of the allowed values.
        """
        check('quantization_config', config_dict, mapping())
        own = set(cls().to_dict())
        unused = {name: x for name, x in kwargs.items() if name not in own}
        options = {**config_dict, **{name: x for name, x in kwargs.items() if name in own}}
        unknown = [name for name in options if name not in own]
        if unknown:
            raise ValueError(
                f'quantization_config: {shown("option", unknown[0])} is unknown; known are '
                f'{", ".join(sorted(own))}'
            )
        check('quant_method', options.pop('quant_method', METHOD), one_of(METHOD))
        with own_entries_only():  # the dict may come from an unknown file
            config = cls(**options)
        return (config, unused) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values."""
        options = {**vars(self), 'quant_method': METHOD}
        return {
            name: dict(x) if isinstance(x, Mapping) else list(x) if isinstance(x, list) else x
            for name, x in options.items()
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, and ``quant_method``."""
        default = BinaryConfig().to_dict()
        return {
            name: x
            for name, x in self.to_dict().items()
            if x != default[name] or name == 'quant_method'
        }

    def copy(self) -> BinaryConfig:
        """Return a checked copy."""
        options = self.to_dict()
        del options['quant_method']
        return BinaryConfig(**options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BinaryConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # as all config classes of diffusers

    def __repr__(self) -> str:
        return f'{type(self).__name__} {json.dumps(self.to_diff_dict(), sort_keys=True)}'
