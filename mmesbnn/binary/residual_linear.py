"""Binary linear layer with threshold, norm, residual and RPReLU, for tokens ``(N, L, C)``.

With ``tau > 1`` it follows the ES arithmetic of ``expansion.py``: its input has ``C tau``
channels, or ``C`` channels that are tiled ``tau`` times. Each copy has its own thresholds.

Source: Le and Li, "BinaryViT", arXiv 2306.16678, and its code. ES follows Shi et al.,
arXiv 2503.23709, in our interpretation, because their Transformer code is not released.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .arguments import checked_layer
from .compiled_parts import part
from .expansion import Expansion, spread_thresholds, tile
from .inputs import check_tokens, is_traced
from .layers import LearnableShift, RPReLU
from .shrunk import ShrunkLinear
from .tiled_norm import TiledBatchNorm2d
from .tracing import whole_layer
from .unit_steps import shifted_linear, token_norm


class ResidualBinaryLinear(nn.Module):
    """Binary linear layer: ``y = rprelu(norm(tile(binary_linear(x + b))) + residual)``.

    By default signs have the quadratic surrogate; weights are centred and scaled. Input and
    output can each be expanded or not. The weight is ``(C_o / tau, C_i tau)`` in all cases.
    Copies of an input start with different thresholds ``-b``, because copies with equal
    thresholds would be equal.

    Args:
        in_features: ``C_i``.
        out_features: ``C_o``.
        tau: ES factor. Default 1.
        expanded_in: Whether the input has ``C_i tau g`` features. If not, it has ``C_i``
            features, and this layer tiles them ``tau g`` times. Default False.
        expanded_out: Whether the output has ``C_o tau g`` features, tiled ``tau^2 g``
            times. If not, it has ``C_o`` features, tiled ``tau`` times. Default False.
        spread: Initial thresholds of the copies lie evenly in ``[-spread, spread]``.
            Default 0.5, for inputs of about unit variance.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`. Default None.
        es_groups: ES groups ``g``. Default 1.
        sign: As :class:`BinaryLinear`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BinaryLinear`'s. Default ``'centred_sign'``.
        latent_clip: As :class:`BinaryLinear`'s. Default None.

    Raises:
        ValueError: If ``tau`` does not divide ``out_features``, or an expanded
            ``in_features``; if ``es_groups`` does not divide ``out_features / tau``; or
            as :class:`BinaryLinear`.

    Shape:
        Tokens ``(N, L, C_i)`` and a residual ``(N, L, C_o)`` to ``(N, L, C_o)``, times
        ``tau g`` where expanded. With ``residual_copies = r`` the residual has an ``r``-th of
        these features.

    Source: Le and Li, "BinaryViT"; ``x - m_1`` there is ``x + b_0`` in our RPReLU.
    """

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        tau: int = 1,
        expanded_in: bool = False,
        expanded_out: bool = False,
        spread: float = 0.5,
        norm: dict[str, Any] | None = None,
        es_groups: int = 1,
        *,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'centred_sign',
        latent_clip: float | None = None,
    ) -> None:
        super().__init__()
        expansion = Expansion(tau, es_groups)
        self.linear = ShrunkLinear(
            in_features,
            out_features,
            expansion=expansion,
            sign=sign,
            weight_binarizer=weight_binarizer,
            latent_clip=latent_clip,
        )
        if expanded_in and in_features % tau:
            raise ValueError(f'tau={tau} does not divide in_features={in_features}')
        self.expand = 1 if expanded_in else expansion.factor
        self.copies = expansion.copies if expanded_out else tau
        wide = expansion.width(out_features) if expanded_out else out_features
        width = expansion.width(in_features)
        self.shift = LearnableShift(width, channels_last=True)
        # an expanded input is itself copies of a shrunk layer's output
        equal = expansion.copies if expanded_in else expansion.factor
        with torch.no_grad():
            self.shift.bias.copy_(spread_thresholds(width // equal, equal, spread))
        self.norm = TiledBatchNorm2d(wide, self.copies, **(norm or {}))
        self.act = RPReLU(wide, channels_last=True)

    @whole_layer
    @part
    def forward(self, x: Tensor, residual: Tensor, residual_copies: int = 1) -> Tensor:
        """Multiply ``x`` and add ``tile(residual, residual_copies)``."""
        check_tokens(self, x, self.shift.bias.numel() // self.expand, 3)
        wide = self.act.slope.numel()
        if not is_traced(x) and (residual_copies < 1 or wide % residual_copies):
            raise ValueError(f'residual_copies={residual_copies} must divide {wide} features')
        check_tokens(self, residual, wide // residual_copies, 3, 'the residual')
        y = shifted_linear(tile(x, self.expand, -1), self.shift, self.linear)
        return token_norm(y, self.norm, residual, self.copies, self.act, residual_copies)
