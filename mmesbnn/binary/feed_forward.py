"""Binary feed-forward layer of Transformers, for tokens ``(N, L, C)``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..checks import one_of
from .arguments import checked_layer
from .inputs import check_tokens
from .neighbour_means import neighbour_mean
from .residual_linear import ResidualBinaryLinear
from .tracing import whole_layer

RESIDUAL_POOLS = ('adjacent', 'replica')


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
