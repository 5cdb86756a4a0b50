"""Conversion of a published checkpoint of any family, in memory and from file to file."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from ..checkpoints import listed
from ..checks import Rule, checked, either, one_of, optional, path, positive_int
from ..version import __version__
from ..whole_files import check_file, whole_file
from . import bi_diffsr, bidet_faster_rcnn, bidet_ssd, binary_vit, bnext, reactnet
from .common import Conversion, ConversionError, Family
from .reading import read_published

#: All families, tried in this order. To add one, write a file next to this one and a line here.
FAMILIES: tuple[Family, ...] = (
    bnext.FAMILY,
    binary_vit.FAMILY,
    reactnet.FAMILY,
    bi_diffsr.FAMILY,
    bidet_faster_rcnn.FAMILY,
    bidet_ssd.FAMILY,
)


def _family_of(name: str, state: Mapping[str, Tensor]) -> Family:
    for family in FAMILIES:
        if family.recognises(state):
            return family
    known = '; '.join(f'{family.name}, with {family.hint}' for family in FAMILIES)
    raise ConversionError(
        f'{name}: not a published checkpoint of a known family ({known}); its keys '
        f'are {listed(state)}'
    )


#: A file, or the content of one; the reader checks the content.
SOURCE = either(path, Rule('a state dict', lambda value: isinstance(value, Mapping)))

#: :func:`mmesbnn.checks.checked` with the rules that conversions share.
checked_conversion = functools.partial(
    checked, se_bits=one_of(8, 32, None), max_bytes=optional(positive_int)
)


@checked_conversion(source=SOURCE)
def convert(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    binarize: bool = False,
    se_bits: int | None = None,
    max_bytes: int | None = None,
) -> Conversion:
    """Convert as :func:`load_published`; return the whole :class:`Conversion`.

    The warning is part of the result and is not issued.
    """
    name, state = read_published(source, max_bytes)
    return convert_state(state, name, binarize=binarize, se_bits=se_bits)


def convert_state(
    state: Mapping[str, Tensor], name: str, *, binarize: bool = False, se_bits: int | None = None
) -> Conversion:
    """Convert weights that were already read, as :func:`convert`.

    Args:
        state: State dict without ``module.``.
        name: Name of the source in messages.
        binarize: As in :func:`load_published`.
        se_bits: As in :func:`load_published`.
    """
    family = _family_of(name, state)
    options = {} if se_bits is None else {'se_bits': se_bits}
    if options and not family.is_quantized(state):
        raise ConversionError(
            f'{name}: se_bits={se_bits} must be None for a file without 8-bit layers'
        )
    try:
        result = family.convert(state, binarize=binarize, **options)
    except ValueError as error:
        raise ConversionError(f'{name}: {error}') from error
    if result.warning is None:
        return result
    return dataclasses.replace(result, warning=f'{name}: {result.warning}')


@checked_conversion(source=SOURCE)
def load_published(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    binarize: bool = False,
    se_bits: int | None = None,
    max_bytes: int | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a published checkpoint for OpenMMLab.

    The converted model computes the logits of the published one, at the temperature of the
    file. If its weights are not binary, a ``UserWarning`` says so::

        model_cfg, state_dict = load_published('bnext_tiny.pth.tar')
        model = mmpretrain.registry.MODELS.build(model_cfg)
        model.load_state_dict(state_dict)

    Args:
        source: A file of ``torch.save`` or safetensors, or its content: a training
            checkpoint or a bare state dict, with or without ``module.``. Files may hold
            tensors and plain values only; nothing in them is run.
        binarize: Whether to make the weights exact signs at any temperature of the file,
            with sign(0) = -1. Latent weights do not change. Default False.
        se_bits: Bits of squeeze-excite in quantised files, which do not hold this number:
            8 (the published accuracies) or 32 (the default of the published constructor).
            None for other files. Default None: 8 in quantised files.
        max_bytes: Largest memory of the file's content in bytes. Default None: four times
            the file's size plus 256 MB.

    Returns:
        Config of the model, and the state dict that it loads strictly.

    Raises:
        OSError: If the file does not exist or cannot be read.
        ValueError: If the file is damaged, belongs to no known family, lacks keys or
            contradicts itself, if a weight is NaN or infinite, if ``se_bits`` is not 8 or
            32, or if it is given for a file that is not quantised.
    """
    result = convert(source, binarize=binarize, se_bits=se_bits, max_bytes=max_bytes)
    if result.warning:
        warnings.warn(result.warning, stacklevel=3)
    # mmdet's detectors read the entries of their configs as attributes
    return ConfigDict(result.model_cfg), result.state_dict


@checked_conversion()
def convert_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    binarize: bool = False,
    se_bits: int | None = None,
    max_bytes: int | None = None,
) -> Conversion:
    """Convert a published checkpoint file to a checkpoint file of OpenMMLab.

    The target holds ``state_dict`` and ``meta`` with ``model`` (the model's config),
    ``mmesbnn_version`` and ``source`` (the name of the published file).

    Args:
        source: Published file.
        target: File to write; an existing file is replaced.
        binarize: As in :func:`load_published`.
        se_bits: As in :func:`load_published`.
        max_bytes: As in :func:`load_published`.

    Returns:
        Conversion with its summary. Its warning was issued.

    Raises:
        OSError: If the source cannot be read, the target cannot be written, or both are
            the same file.
        ValueError: As :func:`load_published`.
    """
    source, target = Path(source), Path(target)
    check_file(target, source)
    result = convert(source, binarize=binarize, se_bits=se_bits, max_bytes=max_bytes)
    if result.warning:
        warnings.warn(result.warning, stacklevel=3)
    meta = dict(model=result.model_cfg, mmesbnn_version=__version__, source=source.name)
    # with a path instead of a file, torch would write its random name into the archive
    with whole_file(target) as partial, partial.open('wb') as file:
        torch.save(dict(meta=meta, state_dict=result.state_dict), file)
    return result
