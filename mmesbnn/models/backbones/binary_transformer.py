"""Binary attention and feed-forward layers in mmpretrain's Transformers.

mmpretrain's modules have no types, so ``host`` has no type here either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from ...binary import BinaryOptions, TiledBatchNorm2d, redraw_signs
from ...binary.arguments import MODULE, checked_layer
from ...binary.feed_forward import RESIDUAL_POOLS
from ...binary.options import merged_options
from ...checks import either, mapping, one_of, sequence, text
from ...old_forms import current_transformer
from ...optional import require
from ..building import build_part
from .base import norm_options
from .hosted_layers import HostedFeedForward, host_attention

#: Options by default; the weights are those of BinaryViT.
DEFAULTS = BinaryOptions(weight_binarizer='centred_sign')


def _is_attention(module: Any) -> bool:
    """Return True for mmpretrain's self-attention with equal input and output width."""
    from mmpretrain.models.utils import MultiheadAttention, WindowMSA

    if type(module) is MultiheadAttention:
        return module.input_dims == module.embed_dims and not module.v_shortcut
    return type(module) is WindowMSA


def _is_feed_forward(module: Any) -> bool:
    """Return True for a feed-forward of two linear layers."""
    from mmcv.cnn.bricks.transformer import FFN
    from mmpretrain.models.backbones.deit3 import DeiT3FFN

    return type(module) in (FFN, DeiT3FFN) and module.num_fcs == 2


def _build_hosted(
    model: nn.Module,
    kept: Sequence[str],
    is_host: Callable[[Any], bool],
    build: Callable[[Any], nn.Module],
) -> dict[str, nn.Module]:
    """Build the replacements of all hosts outside the modules ``kept``, with their weights.

    The model does not change here, so that an error does not leave it half changed.
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
    """Make mmengine skip the initialisation of layers that hold these feed-forwards.

    This concerns layers with their own ``init_weights``. It initialises only the biases of
    linear layers, which no longer exist.
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
    backbone=either(mapping(), MODULE),
    keep=either(text, sequence(text)),
    residual_pool=one_of(*RESIDUAL_POOLS),
)
def binary_transformer(
    backbone: dict[str, Any] | nn.Module,
    tau: int = 1,
    attention: bool = True,
    feedforward: bool = True,
    keep: str | Sequence[str] = (),
    residual_pool: str = 'adjacent',
    *,
    clip: float = 0.005,
    copy_init: str = 'alike',
    norm_cfg: dict[str, Any] | None = None,
    options: BinaryOptions | Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build a Transformer of mmpretrain with binary attention and feed-forward layers.

    It supports ``VisionTransformer``, ``DistilledVisionTransformer``, ``DeiT3``,
    ``T2T_ViT``, ``SwinTransformer`` and others that consist of mmpretrain's
    ``MultiheadAttention`` or ``WindowMSA`` and mmcv's ``FFN``. Attention becomes
    :class:`BinaryMultiheadAttention`; feed-forwards become :class:`BinaryFeedForward`.
    Norms, residuals, layer scales and stochastic depth around them, the patch embedding
    and the head do not change. In a config::

        backbone=dict(
            type='BinaryTransformer', tau=2,
            backbone=dict(type='VisionTransformer', arch='deit-small',
                          layer_scale_init_value=0.1))

    The result is the backbone itself, so code that reads its attributes keeps working. It
    also loads float checkpoints of the backbone (``init_cfg=dict(type='Pretrained',
    ...)``, ``load_from``): weights become latent weights.

    Args:
        backbone: Config of the backbone, or the backbone, which is changed in place.
        tau: ES factor of the feed-forwards. Their input is tiled ``tau`` times, and each
            copy has its own thresholds. The cost of attention does not change. Default 1.
        attention: Whether to make attention binary. Default True.
        feedforward: Whether to make feed-forwards binary. Default True.
        keep: Names of modules in which nothing is replaced; ``*`` and ``?`` are
            wildcards. Default ``()``.
        residual_pool: As :class:`BinaryFeedForward`'s. Default ``'adjacent'``.
        clip: As :class:`BinaryMultiheadAttention`'s. Initially probabilities above
            ``clip / 2`` become ``clip``, and others 0. Default 0.005, for about 200 keys;
            Swin has 49 keys.
        copy_init: As :class:`~mmesbnn.binary.TiledBatchNorm2d`'s, for the norms after the
            linear layers of feed-forwards. Default ``'alike'``.
        norm_cfg: Config of the batch norms over tokens, as :class:`BNext`'s. Default
            ``dict(type='BN')``.
        options: A :class:`mmesbnn.binary.BinaryOptions` or a mapping for one, in the
            place of ``tau`` and ``kwargs``. Default None.
        **kwargs: Single options: ``es_groups`` of the feed-forwards, ``spread``,
            ``sign``, ``latent_clip``, and ``weight_binarizer``, by default
            ``'centred_sign'``.

    Returns:
        The backbone.

    Raises:
        ImportError: If mmpretrain is not installed.
        ValueError: If an argument is not one of the allowed values, if ``tau`` or
            ``es_groups`` does not divide a width, if attention or a feed-forward has
            dropout inside, or if no layer can be replaced.

    Source: Le and Li, "BinaryViT", arXiv 2306.16678; Shi et al., arXiv 2503.23709.
    """
    registry = require('mmpretrain.registry', 'cls', 'binary_transformer')
    chosen = merged_options(options, dict(current_transformer(kwargs), tau=tau), DEFAULTS)
    _check_options(chosen, feedforward)
    model: nn.Module
    if isinstance(backbone, nn.Module):
        model = backbone
    else:
        model = build_part('backbone', backbone, registry.MODELS)
    norm, norm_trained = norm_options(norm_cfg)
    unit = dict(
        spread=chosen.spread,
        sign=chosen.sign,
        weight_binarizer=chosen.weight_binarizer,
        latent_clip=chosen.latent_clip,
        norm=dict(norm, copy_init=copy_init),
    )
    kept = _named(model, [keep] if isinstance(keep, str) else keep)
    attentions, feed_forwards = {}, {}
    if attention:
        attentions = _build_hosted(
            model, kept, _is_attention, partial(host_attention, clip=clip, **unit)
        )
    if feedforward:
        expanded = dict(tau=chosen.tau, es_groups=chosen.es_groups)
        build = partial(HostedFeedForward, residual_pool=residual_pool, **expanded, **unit)
        feed_forwards = _build_hosted(model, kept, _is_feed_forward, build)
    hosted = {**attentions, **feed_forwards}
    if not hosted:
        raise ValueError(
            f'backbone: no attention or feed-forward of {type(model).__name__} can be '
            'replaced: it has no MultiheadAttention or WindowMSA of mmpretrain and no FFN '
            'of mmcv, or keep names all of them'
        )
    if not norm_trained:
        _freeze_norms(hosted.values())
    _replace(model, hosted)
    _skip_own_initialisation(model, feed_forwards)
    if copy_init != 'alike' and isinstance(model, BaseModule):
        model.init_weights = partial(_initialise, model)
    print_log(
        f'{type(model).__name__}: {len(attentions)} attentions and '
        f'{len(feed_forwards)} feed-forwards are binary',
        logger='current',
    )
    return model


def _check_options(options: BinaryOptions, feedforward: bool) -> None:
    if not feedforward:
        for name in ('tau', 'es_groups'):
            value = getattr(options, name)
            if value > 1:
                raise ValueError(
                    f'{name}={value} must be 1 with feedforward=False, because only '
                    'feed-forwards expand'
                )
    if options.pad_value:
        raise ValueError(f'pad_value={options.pad_value} must be 0: a Transformer pads no map')


def _named(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f'keep={pattern!r} matches no module of {type(model).__name__}')
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
