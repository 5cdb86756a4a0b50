"""Maps as tokens, and tokens as maps."""

from __future__ import annotations

from torch import Tensor


def tokens_of(x: Tensor) -> Tensor:
    """Return the tokens ``(N, H W, C)`` of a map ``(N, C, H, W)``."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the map ``(N, C, H, W)`` of tokens ``(N, H W, C)``, with ``size = (H, W)``."""
    return tokens.transpose(1, 2).unflatten(2, size)
