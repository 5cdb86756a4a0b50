"""Binary multi-head attention, for tokens ``(N, L, C)``.

Queries, keys and values are signs. Attention probabilities are 0 or one learnable value.
Both matrix products of attention are therefore binary. Every linear layer is a
:class:`ResidualBinaryLinear`. The matrix products do not change with ``tau``.

Source: Le and Li, "BinaryViT", arXiv 2306.16678, and its code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import BUILT, checked_layer
from .block_means import block_mean
from .elastic import ElasticBinarizer
from .functional import binary_matmul
from .head_signs import signs_of_heads
from .inputs import check_tokens
from .layers import RPReLU, RSign
from .probabilities import binary_probabilities
from .residual_linear import ResidualBinaryLinear
from .tiled_norm import TiledBatchNorm2d
from .tokens import map_of, tokens_of
from .tracing import whole_layer
from .unit_steps import token_norm


class BinaryMultiheadAttention(nn.Module):
    """Multi-head self-attention in which all products are binary.

    With units ``U(x, residual)`` of :class:`ResidualBinaryLinear`, ``s`` a sign with
    thresholds and ``P`` average pooling to ``1 / sr_ratio`` of the resolution::

        q = U_q(x, x)
        z = U_r(P(x), P(x)) if sr_ratio > 1 else x
        k, v = U_k(z, z), U_v(z, z)
        p = elastic_binarize(softmax(s(q) s(k)^T / sqrt(C / heads) + bias), clip)
        c = rprelu(norm(p s(v)) + q + up(k + v))
        y = U_o(c, c)

    ``up`` is nearest-neighbour upsampling. ``bias`` is optional: it masks keys or encodes
    positions. ``ParameterBoundsHook`` keeps ``clip`` positive, because a ``clip`` of 0 or
    less would get no gradient.

    With ``tau > 1`` input and output have ``C tau`` channels. q, k, v and c have ``C``
    channels; their residual is the mean of ``x``'s copies. The class is registered in
    OpenMMLab's ``MODELS``, for the ``attn`` of other Transformers: with ``sr_ratio=1`` it
    needs tokens only.

    Args:
        embed_dims: ``C``.
        num_heads: Number of heads.
        sr_ratio: Factor by which keys and values are coarser than queries. Default 1.
        tau: ES factor. Default 1.
        clip: Initial value of the probabilities that are not 0. Default 0.005.
        spread: As :class:`ResidualBinaryLinear`'s. Default 0.5.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`. Default None.
        sign: As :class:`ResidualBinaryLinear`'s; that of q, k and v, too. Default
            ``'quadratic'``.
        weight_binarizer: As :class:`ResidualBinaryLinear`'s. Default ``'centred_sign'``.
        latent_clip: As :class:`ResidualBinaryLinear`'s. Default None.

    Raises:
        ValueError: If ``num_heads`` or ``tau`` do not divide ``embed_dims``, if
            ``sr_ratio`` or ``clip`` is not positive; when called, if ``sr_ratio > 1``
            and ``size`` is None or does not match the number of tokens.

    Shape:
        ``(N, L, C tau)`` to the same.

    Source: Le and Li, "BinaryViT", arXiv 2306.16678.
    """

    parameter_bounds = {'clip': (1e-4, 1.0)}

    @checked_layer(sign=BUILT)
    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int = 1,
        tau: int = 1,
        clip: float = 0.005,
        spread: float = 0.5,
        norm: dict[str, Any] | None = None,
        *,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'centred_sign',
        latent_clip: float | None = None,
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}')
        self.embed_dims, self.num_heads = embed_dims, num_heads
        self.sr_ratio, self.tau = sr_ratio, tau

        def unit(expanded_in: bool, expanded_out: bool = False) -> ResidualBinaryLinear:
            return ResidualBinaryLinear(
                embed_dims,
                embed_dims,
                tau=tau,
                expanded_in=expanded_in,
                expanded_out=expanded_out,
                spread=spread,
                norm=norm,
                sign=sign,
                weight_binarizer=weight_binarizer,
                latent_clip=latent_clip,
            )

        def threshold() -> RSign:
            return RSign(embed_dims, sign, channels_last=True)

        self.query = unit(True)
        self.reduction = unit(True) if sr_ratio > 1 else None
        self.key, self.value = unit(sr_ratio == 1), unit(sr_ratio == 1)
        self.query_sign, self.key_sign = threshold(), threshold()
        self.value_sign = threshold()
        self.clip = nn.Parameter(torch.tensor(float(clip)))
        self.probabilities = ElasticBinarizer()
        self.norm = TiledBatchNorm2d(embed_dims, **(norm or {}))
        self.act = RPReLU(embed_dims, channels_last=True)
        self.output = unit(False, True)

    @whole_layer
    def forward(
        self, x: Tensor, size: tuple[int, int] | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Compute the attention output.

        Args:
            x: Tokens ``(N, L, C tau)``.
            size: Height and width of their map, needed with ``sr_ratio > 1``. Default
                None.
            bias: Tensor to add to the scores ``(N, heads, L, keys)``. It must broadcast
                with them. Default None.
        """
        check_tokens(self, x, self.embed_dims * self.tau, 3)
        query = self.query(x, self._narrow(x))
        source = self._reduce(x, size)
        narrow = self._narrow(source)
        key, value = self.key(source, narrow), self.value(source, narrow)
        context = self._attend(query, key, value, bias)
        residual = query + self._upsample(key + value, size)
        context = token_norm(context, self.norm, residual, 1, self.act)
        return self.output(context, context, self.tau)

    def _narrow(self, x: Tensor) -> Tensor:
        """Return the mean of ``x``'s copies if ``x`` is expanded, else ``x``."""
        if x.shape[-1] == self.embed_dims:
            return x
        return x.unflatten(-1, (self.tau, -1)).mean(-2)

    def _reduce(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.reduction is None:
            return x
        if size is None or size[0] * size[1] != x.shape[1]:
            raise ValueError(
                f'size={size} must be the height and width of {x.shape[1]} tokens, '
                f'because sr_ratio={self.sr_ratio}'
            )
        x = tokens_of(block_mean(map_of(x, size), self.sr_ratio, ceil_mode=True))
        return self.reduction(x, self._narrow(x))

    def _upsample(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.reduction is None or size is None:
            return x
        coarse = (-(-size[0] // self.sr_ratio), -(-size[1] // self.sr_ratio))
        return tokens_of(F.interpolate(map_of(x, coarse), size, mode='nearest'))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        q = signs_of_heads(query, self.query_sign, self.num_heads)
        k = signs_of_heads(key, self.key_sign, self.num_heads)
        v = signs_of_heads(value, self.value_sign, self.num_heads)
        divisor = math.sqrt(self.embed_dims // self.num_heads)
        probabilities = binary_probabilities(q, k, divisor, bias, self.probabilities, self.clip)
        context = binary_matmul(probabilities, v)
        return context.transpose(1, 2).flatten(2)
