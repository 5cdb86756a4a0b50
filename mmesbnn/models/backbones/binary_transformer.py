"""Binary attention and feed-forwards in the Transformers of mmpretrain."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary import (
    BinaryFeedForward,
    BinaryMultiheadAttention,
    TiledBatchNorm2d,
    redraw_signs,
    tile,
)
from ...binary.arguments import checked_layer
from ...binary.attention import RESIDUAL_POOLS
from ...binary.binarize import shrunk_weight
from ...checks import either, instance, mapping, one_of, sequence, text
from ...optional import require
from ..building import build_part
from .base import norm_options


def _drop_path(layer: nn.Module) -> nn.Module:
    """``layer`` with a plain number: torch.compile does not branch on numpy's."""
    if hasattr(layer, 'drop_prob'):
        layer.drop_prob = float(layer.drop_prob)
    return layer


class _Hosted(nn.Module):
    """What stands for an attention of mmpretrain, and reads its weights."""

    def __init__(self, host: nn.Module, dropped: float, **options: Any) -> None:
        super().__init__()
        if dropped:
            raise ValueError(
                f'attn_drop={dropped}: binary attention drops none of its '
                'probabilities, so attn_drop_rate must be 0'
            )
        self.attention = BinaryMultiheadAttention(host.embed_dims, host.num_heads, **options)
        self.proj_drop = host.proj_drop

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
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
    """``y = drop_path(scale(drop(attention(x))))``, for ``MultiheadAttention``.

    Scale and drops are the host's own, ``attention`` is a
    :class:`BinaryMultiheadAttention`. A state dict with the float ``qkv`` and ``proj``
    is read, too: their weights become latent weights, their biases are dropped, since a
    batch norm follows.

    Args:
        host: The ``MultiheadAttention`` of mmpretrain that it stands for.
        **options: Further arguments of :class:`BinaryMultiheadAttention`.

    Raises:
        ValueError: If the host drops attention probabilities.

    Shape:
        Tokens ``(N, L, C)`` to the same.
    """

    def __init__(self, host: nn.Module, **options: Any) -> None:
        super().__init__(host, host.attn_drop, **options)
        self.gamma1, self.out_drop = host.gamma1, _drop_path(host.out_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to the tokens ``x``."""
        return self.out_drop(self.gamma1(self.proj_drop(self.attention(x))))


class HostedWindowAttention(_Hosted):
    """``y = drop(attention(x))`` in windows, for Swin's ``WindowMSA``.

    The relative position bias, which is real and added to the scores, and the drop are
    the host's own. Otherwise as :class:`HostedAttention`.

    Args:
        host: The ``WindowMSA`` of mmpretrain that it stands for.
        **options: Further arguments of :class:`BinaryMultiheadAttention`.

    Raises:
        ValueError: If the host drops attention probabilities.

    Shape:
        Tokens of windows ``(N W, L, C)`` to the same.
    """

    def __init__(self, host: nn.Module, **options: Any) -> None:
        super().__init__(host, host.attn_drop.p, **options)
        self.relative_position_bias_table = host.relative_position_bias_table
        self.register_buffer('relative_position_index', host.relative_position_index)

    def init_weights(self) -> None:
        """Initialise the position bias as the host does, truncated N(0, 0.02^2)."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within every window.

        Args:
            x: Tokens of the windows, those of an image after each other.
            mask: ``(W, L, L)``, what is added to the scores of an image's windows.
        """
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1)
        if mask is not None:
            bias = tile(bias + mask.unsqueeze(1), x.shape[0] // mask.shape[0], 0)
        return self.proj_drop(self.attention(x, bias=bias))


class HostedFeedForward(nn.Module):
    """``y = identity + drop_path(scale(drop(ffn(x))))``, for mmcv's ``FFN``.

    Scale and drops are the host's own, ``ffn`` is a :class:`BinaryFeedForward`. A state
    dict with the float ``layers`` is read, too: their weights become latent weights,
    with ``tau > 1`` as in :func:`mmesbnn.binary.binarize.shrunk_weight`, their biases
    are dropped, since a batch norm follows.

    Args:
        host: The ``FFN`` of mmcv (or one like it) that it stands for.
        tau: ES factor. Default 1.
        **options: Further arguments of :class:`BinaryFeedForward`.

    Raises:
        ValueError: If the host drops hidden features, or as
            :class:`BinaryFeedForward`.

    Shape:
        Tokens ``(N, L, C)`` to the same.
    """

    def __init__(self, host: nn.Module, tau: int = 1, **options: Any) -> None:
        super().__init__()
        if host.layers[0][-1].p:
            raise ValueError(
                f'drop_rate={host.layers[0][-1].p}: binary feed-forwards drop none of '
                'their hidden features, so it must be 0'
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
            identity: What to add the output to. Default None, ``x`` itself.
        """
        y = self.dropout_layer(self.gamma2(self.ffn(x)))
        if not self.add_identity:
            return y
        return y + (x if identity is None else identity)

    def _load_from_state_dict(self, state: dict, prefix: str, *args: Any) -> None:
        for ours, theirs in (('up', 'layers.0.0'), ('down', 'layers.1')):
            weight = state.pop(f'{prefix}{theirs}.weight', None)
            if weight is not None:
                state.pop(f'{prefix}{theirs}.bias', None)
                latent = shrunk_weight(weight, self.tau)
                state[f'{prefix}ffn.{ours}.linear.weight'] = latent
        super()._load_from_state_dict(state, prefix, *args)


def _hosted_attention(host: nn.Module) -> type[_Hosted]:
    from mmpretrain.models.utils import WindowMSA

    return HostedWindowAttention if type(host) is WindowMSA else HostedAttention


def _is_attention(module: nn.Module) -> bool:
    """Whether it is mmpretrain's plain self-attention, in and out equally wide."""
    from mmpretrain.models.utils import MultiheadAttention, WindowMSA

    if type(module) is MultiheadAttention:
        return module.input_dims == module.embed_dims and not module.v_shortcut
    return type(module) is WindowMSA


def _is_feed_forward(module: nn.Module) -> bool:
    """Whether it is a feed-forward of two linear layers."""
    from mmcv.cnn.bricks.transformer import FFN
    from mmpretrain.models.backbones.deit3 import DeiT3FFN

    return type(module) in (FFN, DeiT3FFN) and module.num_fcs == 2


def _build_hosted(
    model: nn.Module,
    kept: Sequence[str],
    is_host: Callable[[nn.Module], bool],
    build: Callable[[nn.Module], nn.Module],
) -> dict[str, nn.Module]:
    """What stands for every host outside the modules named ``kept``, with its weights.

    The model is left as it is, so that an error leaves no half of it changed.
    """
    hosted = {}
    for name, host in model.named_modules():
        if not is_host(host) or any(f'{name}.'.startswith(f'{k}.') for k in kept):
            continue
        new = build(host).to(next(host.parameters())).train(host.training)
        new.load_state_dict(host.state_dict(), strict=False)
        new.requires_grad_(any(p.requires_grad for p in host.parameters()))
        hosted[name] = new
    return hosted


def _replace(model: nn.Module, hosted: Mapping[str, nn.Module]) -> None:
    for name, new in hosted.items():
        parent, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(parent), attribute, new)


def _freeze_norms(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, TiledBatchNorm2d):
                norm.requires_grad_(False)


def _skip_own_initialisation(model: nn.Module, names: Iterable[str]) -> None:
    """Let mmengine not initialise the layers that would reach into these feed-forwards.

    Those with an ``init_weights`` of their own: they ask for the biases of linear
    layers, which there are none of now, and initialise nothing else.
    """
    for name in names:
        layer = model.get_submodule(name.rpartition('.')[0])
        if isinstance(layer, BaseModule):
            own = type(layer).init_weights is not BaseModule.init_weights
            layer.is_init = layer.is_init or own


def _initialise(model: BaseModule) -> None:
    """Initialise as the model's class does, then restore the initial signs of copies."""
    type(model).init_weights(model)
    redraw_signs(model)


@MODELS.register_module(name=['BinaryTransformer', 'binary_transformer'])
@checked_layer(
    backbone=either(mapping(), instance(nn.Module, 'an nn.Module')),
    keep=either(text, sequence(text)),
    residual_pool=one_of(*RESIDUAL_POOLS),
)
def binary_transformer(
    backbone: dict | nn.Module,
    tau: int = 1,
    attention: bool = True,
    feedforward: bool = True,
    keep: str | Sequence[str] = (),
    residual_pool: str = 'adjacent',
    spread: float = 0.5,
    clip: float = 0.005,
    sign_zero: int = -1,
    copy_init: str = 'alike',
    norm_cfg: dict | None = None,
) -> nn.Module:
    """A Transformer of mmpretrain with binary attention and feed-forwards.

    For ``VisionTransformer``, ``DistilledVisionTransformer``, ``DeiT3``, ``T2T_ViT``,
    ``SwinTransformer`` and others made of mmpretrain's ``MultiheadAttention`` or
    ``WindowMSA``, and mmcv's ``FFN``. The former become
    :class:`BinaryMultiheadAttention`, the latter :class:`BinaryFeedForward`; norms,
    residuals, layer scales and stochastic depth around them stay, as do patch
    embedding and head. In a config::

        backbone=dict(
            type='BinaryTransformer', tau=2,
            backbone=dict(type='VisionTransformer', arch='deit-small',
                          layer_scale_init_value=0.1))

    The result is the backbone itself, so whatever reads its attributes goes on to. It
    also reads float checkpoints of the backbone (``init_cfg=dict(type='Pretrained',
    ...)``, ``load_from``): weights become latent weights.

    Args:
        backbone: Config of the backbone, or the backbone, which is changed in place.
        tau: ES factor of the feed-forwards, whose input is tiled ``tau`` times with
            thresholds of its own. The cost of attention stays. Default 1.
        attention: Whether attention is binary. Default True.
        feedforward: Whether feed-forwards are. Default True.
        keep: Names of modules in which all stays, with ``*`` and ``?``. Default: none.
        residual_pool: As :class:`BinaryFeedForward`'s. Default ``'adjacent'``.
        spread: With ``tau > 1`` thresholds of copies lie evenly in ``[-spread,
            spread]`` at first. Default 0.5.
        clip: As :class:`BinaryMultiheadAttention`'s: probabilities above ``clip / 2``
            count at first. Default 0.005, for about 200 keys; Swin has 49.
        sign_zero: What sign(0) is, -1 or 0. Default -1.
        copy_init: As :class:`~mmesbnn.binary.TiledBatchNorm2d`'s, of the norms behind
            the linear layers of feed-forwards. Default ``'alike'``.
        norm_cfg: Of the batch norms over tokens, as :class:`BNext`'s. Default
            ``dict(type='BN')``.

    Returns:
        The backbone.

    Raises:
        ImportError: If mmpretrain is not installed.
        ValueError: If an argument is not one of the allowed values, ``tau`` does not
            divide a width, dropout is asked for inside attention or a feed-forward, or
            nothing is to be replaced.

    Source: Le and Li, "BinaryViT", arXiv 2306.16678; Shi et al., arXiv 2503.23709.
    """
    registry = require('mmpretrain.registry', 'cls', 'binary_transformer')
    if tau > 1 and not feedforward:
        raise ValueError(f'tau={tau}: only feed-forwards expand, feedforward is False')
    model = backbone
    if not isinstance(model, nn.Module):
        model = build_part('backbone', backbone, registry.MODELS)
    norm, norm_trained = norm_options(norm_cfg or dict(type='BN'))
    unit = dict(spread=spread, sign_zero=sign_zero, norm=dict(norm, copy_init=copy_init))
    kept = _named(model, [keep] if isinstance(keep, str) else keep)
    attentions, feed_forwards = {}, {}
    if attention:
        attentions = _build_hosted(
            model,
            kept,
            _is_attention,
            lambda host: _hosted_attention(host)(host, clip=clip, **unit),
        )
    if feedforward:
        options = dict(tau=tau, residual_pool=residual_pool, **unit)
        feed_forwards = _build_hosted(
            model, kept, _is_feed_forward, lambda host: HostedFeedForward(host, **options)
        )
    hosted = {**attentions, **feed_forwards}
    if not hosted:
        raise ValueError(
            f'backbone: no attention or feed-forward of {type(model).__name__} can be '
            "replaced: it has none of mmpretrain's MultiheadAttention and WindowMSA or "
            "mmcv's FFN, or they are all kept"
        )
    if not norm_trained:
        _freeze_norms(hosted.values())
    _replace(model, hosted)
    _skip_own_initialisation(model, feed_forwards)
    if copy_init != 'alike' and isinstance(model, BaseModule):
        model.init_weights = functools.partial(_initialise, model)  # type: ignore[method-assign]
    print_log(
        f'{type(model).__name__}: {len(attentions)} attentions and '
        f'{len(feed_forwards)} feed-forwards are binary',
        logger='current',
    )
    return model


def _named(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f'keep={pattern!r} matches no module of {type(model).__name__}')
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
