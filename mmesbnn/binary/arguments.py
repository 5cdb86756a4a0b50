"""Rules of the arguments that many layers share, by name."""

from __future__ import annotations

import functools

from torch import nn

from ..checks import (
    Rule,
    checked,
    each,
    either,
    filled_text,
    flag,
    instance,
    integer,
    mapping,
    natural,
    none,
    not_negative,
    one_of,
    optional,
    pair,
    positive,
    positive_int,
    probability,
)
from .expansion import COPY_INITS

#: A sign or a weight binarizer: a name, a dict with ``type``, or a module.
MODULE = instance(nn.Module, 'an nn.Module')
BUILT = either(filled_text, mapping(), MODULE)
COPY_INIT = one_of(*COPY_INITS)
#: Keyword arguments of ``TiledBatchNorm2d``.
NORM = each(
    mapping((), ['eps', 'momentum', 'sync', 'copy_init']),
    eps=positive,
    momentum=optional(probability),
    sync=flag,
    copy_init=COPY_INIT,
)
NORM_CFG = each(
    mapping(['type'], ['eps', 'momentum', 'requires_grad']),
    type=one_of('BN', 'SyncBN'),
    eps=positive,
    momentum=optional(probability),
    requires_grad=flag,
)
BITS = integer(1, 32)
#: Tested by attributes, because the module of the class Expansion imports this one.
EXPANSION = Rule('an Expansion', lambda x: hasattr(x, 'factor') and hasattr(x, 'kernels'))

RULES = dict(
    banks=positive_int,
    bits=optional(BITS),
    channels=positive_int,
    clip=positive,
    copies=positive_int,
    copy_init=COPY_INIT,
    dilation=pair(positive_int),
    embed_dims=positive_int,
    eps=positive,
    expansion=EXPANSION,
    es_groups=positive_int,
    feedforward_dims=positive_int,
    groups=positive_int,
    in_channels=positive_int,
    in_features=positive_int,
    kernel_size=pair(positive_int),
    latent_clip=optional(positive),
    momentum=optional(probability),
    norm=optional(NORM),
    norm_cfg=optional(NORM_CFG),
    num_features=positive_int,
    num_heads=positive_int,
    out_channels=positive_int,
    out_features=positive_int,
    pad_value=one_of(-1, 0, 1),
    padding=pair(natural),
    se_bits=optional(BITS),
    sign=either(BUILT, none),
    sign_zero=one_of(-1, 0),
    spread=not_negative,
    sr_ratio=positive_int,
    stem_bits=optional(BITS),
    stride=pair(positive_int),
    tau=positive_int,
    weight_binarizer=BUILT,
    zero=one_of(-1, 0),
)

#: :func:`mmesbnn.checks.checked` with these rules; a call can replace single rules.
checked_layer = functools.partial(checked, **RULES)
