"""Options of everything that turns layers binary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..checks import check, either, instance, mapping
from .arguments import RULES
from .signs import build_sign
from .weights import build_weight_binarizer


@dataclass(frozen=True)
class BinaryOptions:
    """Options of binary layers.

    For ``binarize``, ``binarize_unet``, ``BinaryTransformer`` and ``conv_cfg``.

    Args:
        tau: ES factor. Default 1.
        es_groups: ES groups. Default 1.
        spread: As :class:`ESConv2d`'s, in units of the layers' inputs. Default 0.5.
        sign: As :class:`BinaryConv2d`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BinaryConv2d`'s. Default ``'scaled_sign'``.
        pad_value: As :class:`BinaryConv2d`'s; convolutions only. Default 0.
        latent_clip: As :class:`BinaryConv2d`'s. Default None.

    Raises:
        ValueError: If an option is not one of the allowed values.
    """

    tau: int = 1
    es_groups: int = 1
    spread: float = 0.5
    sign: Any = 'quadratic'
    weight_binarizer: Any = 'scaled_sign'
    pad_value: int = 0
    latent_clip: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.arguments().items():
            check(name, value, RULES[name])
        if self.sign is not None:
            build_sign(self.sign)
        build_weight_binarizer(self.weight_binarizer, channels=1)

    def arguments(self) -> dict[str, Any]:
        """Return the options as keyword arguments of :class:`ESConv2d`."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values, which a config or a file can store.

        Raises:
            ValueError: If ``sign`` or ``weight_binarizer`` is a module.
        """
        plain = self.arguments()
        for name in ('sign', 'weight_binarizer'):
            if isinstance(plain[name], nn.Module):
                raise ValueError(
                    f'{name}={type(plain[name]).__name__}(...) cannot be stored: '
                    'give a name or a dict with type'
                )
        return {key: dict(x) if isinstance(x, Mapping) else x for key, x in plain.items()}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> BinaryOptions:
        """Build the options from a mapping, the inverse of :meth:`to_dict`.

        Raises:
            ValueError: If a key is unknown, or a value is not one of the allowed ones.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(key) for key in options if key not in names]
        if unknown:
            raise ValueError(
                f'unknown options of binary layers: {", ".join(unknown)}; known are '
                f'{", ".join(names)}'
            )
        return cls(**options)


def refuse_both(short: Mapping[str, Any], default: Mapping[str, Any]) -> None:
    """Check that no keyword argument is given beside one object with all options.

    Args:
        short: Keyword arguments.
        default: Their defaults.

    Raises:
        ValueError: If one of them does not have its default.
    """
    both = [
        name
        for name, value in short.items()
        if value is not default.get(name) and value != default.get(name)
    ]
    if both:
        raise ValueError(
            f'options and {", ".join(both)} are both given: put {both[0]} into options'
        )


def merged_options(
    options: BinaryOptions | Mapping[str, Any] | None,
    short: Mapping[str, Any],
    defaults: BinaryOptions,
) -> BinaryOptions:
    """Return the options, given either as one object or as single keyword arguments.

    Args:
        options: Options as one object, or None if keyword arguments give them. A mapping
            can leave out options that have the function's default.
        short: Keyword arguments.
        defaults: Defaults of the function.

    Raises:
        ValueError: If both are given, or a value is not one of the allowed ones.
    """
    default = defaults.arguments()
    if options is None:
        return BinaryOptions.from_dict({**default, **short})
    check('options', options, either(instance(BinaryOptions, 'a BinaryOptions'), mapping()))
    refuse_both(short, default)
    if isinstance(options, BinaryOptions):
        return options
    return BinaryOptions.from_dict({**default, **options})
