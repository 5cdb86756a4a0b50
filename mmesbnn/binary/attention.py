"""Binary multi-head attention and feed-forward layer, for tokens ``(N, L, C)``.

Queries, keys and values are signs. Attention probabilities are 0 or one learnable value.
Both matrix products of attention are therefore binary. Every linear layer has a threshold
before it, and a norm, a real residual and an :class:`RPReLU` after it.

With ``tau > 1`` the linear layers follow the ES arithmetic of ``expansion.py``: their
input has ``C tau`` channels, or ``C`` channels that are tiled ``tau`` times. Each copy has
its own thresholds. The matrix products of attention do not change.

Source: Le and Li, "BinaryViT", arXiv 2306.16678, and its code. ES follows Shi et al.,
arXiv 2503.23709, in our interpretation, because their Transformer code is not released.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import one_of
from .arguments import BUILT, checked_layer
from .expansion import Expansion, spread_thresholds, tile
from .functional import binary_matmul
from .inputs import check_tokens, is_traced
from .layers import LearnableShift, RPReLU, RSign
from .levels import dorefa
from .neighbour_means import neighbour_mean
from .shrunk import ShrunkLinear
from .tiled_norm import TiledBatchNorm2d
from .tracing import whole_layer
from .unit_steps import shifted_linear, token_norm

RESIDUAL_POOLS = ('adjacent', 'replica')


def elastic_binarize(x: Tensor, clip: Tensor) -> Tensor:
    """Compute ``clip * clamp(round(x / clip), 0, 1)``: 0 up to the threshold ``clip / 2``.

    With ``r = x / clip`` the gradients are ``dy/dx = 1 if 0 <= r <= 1 else 0`` and
    ``dy/dclip = round(r) - r if 0 <= r <= 1 else (1 if r > 1 else 0)``.

    Args:
        x: Tensor of any shape, such as attention probabilities.
        clip: Tensor with one positive entry.

    Source: Liu et al., "BiT: Robustly Binarized Multi-distilled Transformer" (2022).
    """
    return clip * dorefa(x / clip, bits=1)


class ElasticBinarizer(nn.Module):
    """:func:`elastic_binarize` as a module, which an export can replace."""

    def forward(self, x: Tensor, clip: Tensor) -> Tensor:
        """Binarize ``x``, a tensor of any shape."""
        return elastic_binarize(x, clip)


def tokens_of(x: Tensor) -> Tensor:
    """Return the tokens ``(N, H W, C)`` of a map ``(N, C, H, W)``."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the map ``(N, C, H, W)`` of tokens ``(N, H W, C)``, with ``size = (H, W)``."""
    return tokens.transpose(1, 2).unflatten(2, size)


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
    def forward(self, x: Tensor, residual: Tensor, residual_copies: int = 1) -> Tensor:
        """Multiply ``x`` and add ``tile(residual, residual_copies)``."""
        check_tokens(self, x, self.shift.bias.numel() // self.expand, 3)
        wide = self.act.slope.numel()
        if not is_traced(x) and (residual_copies < 1 or wide % residual_copies):
            raise ValueError(f'residual_copies={residual_copies} must divide {wide} features')
        check_tokens(self, residual, wide // residual_copies, 3, 'the residual')
        y = shifted_linear(tile(x, self.expand, -1), self.shift, self.linear)
        return token_norm(y, self.norm, residual, self.copies, self.act, residual_copies)


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
        context = self._attend(
            self.query_sign(query), self.key_sign(key), self.value_sign(value), bias
        )
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
        pooled = F.avg_pool2d(
            map_of(x, size), self.sr_ratio, ceil_mode=True, count_include_pad=False
        )
        x = tokens_of(pooled)
        return self.reduction(x, self._narrow(x))

    def _upsample(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        if self.reduction is None or size is None:
            return x
        coarse = (-(-size[0] // self.sr_ratio), -(-size[1] // self.sr_ratio))
        return tokens_of(F.interpolate(map_of(x, coarse), size, mode='nearest'))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        scores = binary_matmul(split(query), split(key).mT)
        scores = scores / math.sqrt(self.embed_dims // self.num_heads)
        if bias is not None:
            scores = scores + bias
        probabilities = self.probabilities(scores.softmax(-1), self.clip)
        context = binary_matmul(probabilities, split(value))
        return context.transpose(1, 2).flatten(2)


class BinaryFeedForward(nn.Module):
    """Feed-forward layer of BinaryViT: two binary linear layers with residuals.

    With ``r = H / C``, units ``U(x, residual)`` of :class:`ResidualBinaryLinear` and
    ``P`` an average pooling of channels::

        h = U_1(x, tile(x, r))
        y = U_2(h, P(h))

    With ``tau > 1`` or ``g > 1``, ``h`` has ``H tau g`` channels. There are two cases:

    - ``expanded=False``: input and output have ``C`` channels; ``tile`` makes, and ``P``
      averages, ``r tau g`` channels.
    - ``expanded=True``: input and output have ``C tau g`` channels; ``tile`` makes, and
      ``P`` averages, ``r`` channels.

    Multiplications and weight bits are those of ``tau = g = 1`` in both cases.

    Args:
        embed_dims: ``C``.
        feedforward_dims: ``H``.
        tau: ES factor. Default 1.
        expanded: Whether input and output have ``C tau g`` channels. Default False.
        residual_pool: Channels that ``P`` averages. ``'adjacent'`` averages adjacent
            channels, as published; these are different channels, because ``tile`` does
            not put copies side by side. ``'replica'`` averages the copies of one channel,
            so channels are not mixed. Default ``'adjacent'``.
        spread: As :class:`ResidualBinaryLinear`'s. Default 0.5.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`. Default None.
        es_groups: ES groups ``g``. Default 1.
        sign: As :class:`ResidualBinaryLinear`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`ResidualBinaryLinear`'s. Default ``'centred_sign'``.
        latent_clip: As :class:`ResidualBinaryLinear`'s. Default None.

    Raises:
        ValueError: If ``embed_dims`` does not divide ``feedforward_dims``, if ``tau`` does
            not divide both, if ``es_groups`` does not divide the outputs of a shrunk
            layer, or if ``residual_pool`` has another value.

    Shape:
        ``(N, L, C)``, or ``(N, L, C tau g)`` if ``expanded``, to the same.

    Source: Le and Li, "BinaryViT", arXiv 2306.16678.
    """

    @checked_layer(residual_pool=one_of(*RESIDUAL_POOLS))
    def __init__(
        self,
        embed_dims: int,
        feedforward_dims: int,
        tau: int = 1,
        expanded: bool = False,
        residual_pool: str = 'adjacent',
        spread: float = 0.5,
        norm: dict[str, Any] | None = None,
        es_groups: int = 1,
        *,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'centred_sign',
        latent_clip: float | None = None,
    ) -> None:
        super().__init__()
        if feedforward_dims % embed_dims:
            raise ValueError(
                f'embed_dims={embed_dims} does not divide feedforward_dims={feedforward_dims}'
            )
        ratio = feedforward_dims // embed_dims
        self.ratio = ratio if expanded else ratio * tau * es_groups
        self.residual_pool = residual_pool
        options: dict[str, Any] = dict(
            tau=tau,
            es_groups=es_groups,
            spread=spread,
            norm=norm,
            sign=sign,
            weight_binarizer=weight_binarizer,
            latent_clip=latent_clip,
        )
        self.up = ResidualBinaryLinear(
            embed_dims, feedforward_dims, expanded_in=expanded, expanded_out=True, **options
        )
        self.down = ResidualBinaryLinear(
            feedforward_dims, embed_dims, expanded_in=True, expanded_out=expanded, **options
        )

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output for the tokens ``x``."""
        check_tokens(self, x, self.down.act.slope.numel(), 3)
        hidden = self.up(x, x, self.ratio)
        return self.down(hidden, self._pool(hidden))

    def _pool(self, hidden: Tensor) -> Tensor:
        if self.residual_pool == 'adjacent':
            return neighbour_mean(hidden, self.ratio)
        return hidden.unflatten(-1, (self.ratio, -1)).mean(-2)
