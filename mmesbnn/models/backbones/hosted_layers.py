"""Binary layers that replace those of mmpretrain's Transformers, and can load their weights.

mmpretrain's modules have no types, so ``host`` has no type here either.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...binary import BinaryFeedForward, BinaryMultiheadAttention, tile
from ...binary.shrunk import shrunk_weight


def _drop_path(layer: Any) -> Any:
    """Make the probability of ``layer`` a plain number, because torch.compile needs it."""
    if hasattr(layer, 'drop_prob'):
        layer.drop_prob = float(layer.drop_prob)
    return layer


class _Hosted(nn.Module):
    """Base of layers that replace an attention of mmpretrain and can load its weights."""

    def __init__(self, host: Any, dropped: float, **options: Any) -> None:
        super().__init__()
        if dropped:
            raise ValueError(
                f'attn_drop={dropped}: binary attention has no dropout of its '
                'probabilities, so attn_drop_rate must be 0'
            )
        self.attention = BinaryMultiheadAttention(host.embed_dims, host.num_heads, **options)
        self.proj_drop = host.proj_drop

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        weight = state.pop(f'{prefix}qkv.weight', None)
        if weight is not None:
            for name, part in zip(('query', 'key', 'value'), weight.chunk(3)):
                state[f'{prefix}attention.{name}.linear.weight'] = part
            output = state.pop(f'{prefix}proj.weight')
            state[f'{prefix}attention.output.linear.weight'] = output
            for name in ('qkv', 'proj'):
                state.pop(f'{prefix}{name}.bias', None)
        super()._load_from_state_dict(state, prefix, *args)


class HostedAttention(_Hosted):
    """Replacement of ``MultiheadAttention``: ``drop_path(scale(drop(attention(x))))``.

    Scale and dropout are those of the host. ``attention`` is a
    :class:`BinaryMultiheadAttention`. The layer also loads a state dict with the float
    ``qkv`` and ``proj``: their weights become latent weights. Their biases are dropped,
    because a batch norm follows.

    Args:
        host: ``MultiheadAttention`` of mmpretrain to replace.
        **options: Further arguments of :class:`BinaryMultiheadAttention`.

    Raises:
        ValueError: If the host has dropout of attention probabilities.

    Shape:
        Tokens ``(N, L, C)`` to the same.
    """

    def __init__(self, host: Any, **options: Any) -> None:
        super().__init__(host, host.attn_drop, **options)
        self.gamma1, self.out_drop = host.gamma1, _drop_path(host.out_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the tokens ``x``."""
        return self.out_drop(self.gamma1(self.proj_drop(self.attention(x))))


class HostedWindowAttention(_Hosted):
    """Replacement of Swin's ``WindowMSA``: ``drop(attention(x))`` in windows.

    The dropout and the relative position bias are those of the host. The bias is real and
    is added to the scores. All else is as in :class:`HostedAttention`.

    Args:
        host: ``WindowMSA`` of mmpretrain to replace.
        **options: Further arguments of :class:`BinaryMultiheadAttention`.

    Raises:
        ValueError: If the host has dropout of attention probabilities.

    Shape:
        Tokens of windows ``(N W, L, C)`` to the same.
    """

    def __init__(self, host: Any, **options: Any) -> None:
        super().__init__(host, host.attn_drop.p, **options)
        self.relative_position_bias_table: nn.Parameter = host.relative_position_bias_table
        self.register_buffer('relative_position_index', host.relative_position_index)

    relative_position_index: Tensor

    def init_weights(self) -> None:
        """Initialise the position bias as the host does: truncated N(0, 0.02^2)."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within every window.

        Args:
            x: Tokens of the windows, image by image.
            mask: Tensor ``(W, L, L)`` to add to the scores of an image's windows. Default
                None.
        """
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1)
        if mask is not None:
            bias = tile(bias + mask.unsqueeze(1), x.shape[0] // mask.shape[0], 0)
        return self.proj_drop(self.attention(x, bias=bias))


class HostedFeedForward(nn.Module):
    """Replacement of mmcv's ``FFN``: ``identity + drop_path(scale(drop(ffn(x))))``.

    Scale and dropout are those of the host. ``ffn`` is a :class:`BinaryFeedForward`. The
    layer also loads a state dict with the float ``layers``: their weights become latent
    weights, with ``tau > 1`` as in :func:`mmesbnn.binary.shrunk.shrunk_weight`. Their
    biases are dropped, because a batch norm follows.

    Args:
        host: ``FFN`` of mmcv, or a similar layer, to replace.
        tau: ES factor. Default 1.
        **options: Further arguments of :class:`BinaryFeedForward`.

    Raises:
        ValueError: If the host has dropout of hidden features, or as
            :class:`BinaryFeedForward`.

    Shape:
        Tokens ``(N, L, C)`` to the same.
    """

    def __init__(self, host: Any, tau: int = 1, **options: Any) -> None:
        super().__init__()
        if host.layers[0][-1].p:
            raise ValueError(
                f'drop_rate={host.layers[0][-1].p} must be 0, because binary feed-forwards '
                'have no dropout of hidden features'
            )
        self.tau = tau
        self.ffn = BinaryFeedForward(host.embed_dims, host.feedforward_channels, tau, **options)
        self.gamma2 = host.gamma2
        self.dropout_layer = _drop_path(host.dropout_layer)
        self.add_identity = host.add_identity

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """Compute the layer's output for the tokens ``x``.

        Args:
            x: Tokens.
            identity: Tensor to add the output to. Default None: ``x``.
        """
        y = self.dropout_layer(self.gamma2(self.ffn(x)))
        if not self.add_identity:
            return y
        return y + (x if identity is None else identity)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for ours, theirs in (('up', 'layers.0.0'), ('down', 'layers.1')):
            weight = state.pop(f'{prefix}{theirs}.weight', None)
            if weight is not None:
                state.pop(f'{prefix}{theirs}.bias', None)
                latent = shrunk_weight(weight, self.tau)
                state[f'{prefix}ffn.{ours}.linear.weight'] = latent
        super()._load_from_state_dict(state, prefix, *args)


def host_attention(host: Any, **options: Any) -> _Hosted:
    """Build the binary replacement of an attention of mmpretrain."""
    from mmpretrain.models.utils import WindowMSA

    if type(host) is WindowMSA:
        return HostedWindowAttention(host, **options)
    return HostedAttention(host, **options)
