"""Linear classifier with min-max quantized weights. Imports mmpretrain."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.heads import LinearClsHead

from ...binary.arguments import BITS, checked_layer
from ...checks import positive_int
from ..layers.minmax import MinMaxLinear


class MinMaxLinearClsHead(LinearClsHead):
    """mmpretrain's ``LinearClsHead`` with min-max quantized weights and inputs.

    It is the classifier of BNext's quantised variant.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the features.
        bits: Bits of weights and inputs, 1 to 32. Default 8.
        **kwargs: As ``LinearClsHead``.

    Raises:
        ValueError: If ``bits`` or ``num_classes`` is out of range.
    """

    @checked_layer(num_classes=positive_int, bits=BITS)
    def __init__(self, num_classes: int, in_channels: int, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.fc = MinMaxLinear(in_channels, num_classes, bits=bits)
