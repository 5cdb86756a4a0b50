"""Values that signs and weight binarizers give, so that tools need not know the classes.

A sign says which values its outputs take, a weight binarizer which values its weights take,
each by an attribute ``form``. Counting, packing, checks and exports read this attribute only.
They therefore work with signs and weight binarizers of other packages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checks import checked, integer, one_of, optional


@dataclass(frozen=True)
class InputForm:
    """Values of a sign's outputs: ``2^bits`` values, evenly spaced from ``low`` to 1.

    Signs of the convention ``zero=0`` have the form of -1 and 1, too.

    Args:
        bits: Bits of a value, 1 to 8. Default 1.
        low: Smallest value, -1 or 0. Default -1.

    Raises:
        ValueError: If an argument is not one of the allowed values.
    """

    bits: int = 1
    low: int = -1

    def __post_init__(self) -> None:
        _check_input(bits=self.bits, low=self.low)

    @property
    def is_sign(self) -> bool:
        """True if the values are -1 and 1, which a kernel for signs multiplies."""
        return self == SIGNS_ONLY

    @property
    def values(self) -> int:
        """Number of values, ``2^bits``."""
        return 2**self.bits

    def __str__(self) -> str:
        if self.bits == 1:
            return f'{self.low} and 1'
        return f'{self.values} values from {self.low} to 1'


@checked(bits=integer(1, 8), low=one_of(-1, 0))
def _check_input(bits: int, low: int) -> None:
    """Raise an error if a number is not one of the allowed values."""


#: Outputs of a sign that says nothing.
SIGNS_ONLY = InputForm()


@dataclass(frozen=True)
class WeightForm:
    """Values of a weight that a binarizer gives.

    Args:
        values: Number of values that an output channel takes at most: 2 are ``-a`` and
            ``a``. None means that the weights are real. Default 2.
        scaled: Whether ``a`` is a number per output channel. With False ``a`` is 1. None
            means that the weight itself shows it. Default None.

    Raises:
        ValueError: If an argument is not one of the allowed values.
    """

    values: int | None = 2
    scaled: bool | None = None

    def __post_init__(self) -> None:
        _check_weight(values=self.values, scaled=self.scaled)

    @property
    def is_real(self) -> bool:
        """True if a weight takes any value."""
        return self.values is None

    @property
    def bits(self) -> int:
        """Bits of a weight, 32 if it is real."""
        return 32 if self.values is None else math.ceil(math.log2(self.values))


@checked(values=optional(integer(2, 256)))
def _check_weight(values: int | None, scaled: bool | None) -> None:
    """Raise an error if a value is not one of the allowed ones."""


def input_form(module: object) -> InputForm:
    """Return the form of a sign's outputs; a module that says nothing gives -1 and 1."""
    form = getattr(module, 'form', None)
    return form if isinstance(form, InputForm) else SIGNS_ONLY


def weight_form(module: object) -> WeightForm:
    """Return the form of a binarizer's weights; the weight shows what a module does not say."""
    form = getattr(module, 'form', None)
    return form if isinstance(form, WeightForm) else WeightForm()
