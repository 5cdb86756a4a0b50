"""Loader of a super-resolution pipeline from a folder or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints import CheckpointError, check_numbers, misfits, state_dict_of
from ..checkpoints.bounded import bounded_build, size_of
from ..checks import checked, optional, positive_int
from ..optional import require
from ..plain_values import check_plain
from .common import ConversionError
from .convert import convert_state
from .reading import published_state, read_file

#: Prefix of the UNet's keys in :class:`SRDiffusion`'s state dict.
PREFIX = 'unet.'


def _options(unet: Path) -> dict[str, Any]:
    """Return arguments of ``from_pretrained`` for a folder of a UNet."""
    from ..diffusion.folders import is_packed

    # packed weights need the package about whose lack diffusers warns without this argument
    return {} if is_packed(unet) else {'low_cpu_mem_usage': False}


def _from_folder(folder: Path) -> Any:
    from diffusers import UNet2DModel

    from .. import diffusion
    from ..diffusion.folders import check_unet, load_unet

    if (folder / 'model_index.json').is_file():
        return diffusion.SRDiffusionPipeline.from_pretrained(folder, **_options(folder / 'unet'))
    if not (folder / 'config.json').is_file():
        raise ConversionError(
            f'{folder}: holds neither a pipeline (model_index.json) nor a UNet (config.json)'
        )
    name, options = check_unet(folder), _options(folder)
    if name == 'UNet2DModel':
        unet = load_unet(UNet2DModel, folder, **options)
    elif name in diffusion.__all__:
        unet = load_unet(getattr(diffusion, name), folder, **options)
    else:
        unet = diffusion.load_binarized(folder, **options)
    return diffusion.SRDiffusionPipeline(unet)


def _from_config(cfg: Mapping[str, Any], weights: Any, name: str, max_bytes: int | None) -> Any:
    """Build the pipeline of a converted file; only its two known classes are built."""
    from ..diffusion import BIDiffSRUNet, SRDiffusionPipeline

    if not isinstance(cfg.get('unet'), Mapping):
        raise ConversionError(f'{name}: does not describe its UNet')
    options = dict(cfg['unet'])
    if options.pop('type', None) != 'BIDiffSRUNet':
        raise ConversionError(f'{name}: its UNet is no BIDiffSRUNet')
    try:
        state = state_dict_of(weights)
        check_numbers(state)
        with bounded_build(size_of(state.values()), max_bytes):
            unet = BIDiffSRUNet(**options)
    except (CheckpointError, TypeError, ValueError) as error:
        raise ConversionError(f'{name}: {error}') from error
    state = {k[len(PREFIX) :]: v for k, v in state.items() if k.startswith(PREFIX)}
    differences = misfits(state, unet.state_dict())
    if differences:
        raise ConversionError(
            f'{name} does not fit its network: of its entries {", ".join(differences)}'
        )
    unet.load_state_dict(state)
    try:
        check_plain(cfg, 'its config')
        options = dict(cfg.get('pipeline') or {})
        return SRDiffusionPipeline(unet.eval(), scale=cfg.get('scale'), **options)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConversionError(f'{name}: {error}') from error


@checked(max_bytes=optional(positive_int))
def load_sr_pipeline(source: str | os.PathLike[str], max_bytes: int | None = None) -> Any:
    """Load a pipeline for super-resolution.

    Args:
        source: A folder of a pipeline or of a UNet that ``save_pretrained`` wrote; a
            published BI-DiffSR file; or a file that ``convert_file`` made from one. Files
            may hold tensors and plain values only; nothing in them is run.
        max_bytes: Largest memory of a file's content in bytes. Default None: four times
            its size plus 256 MB.

    Returns:
        :class:`~mmesbnn.diffusion.SRDiffusionPipeline`. For a file its magnification is 2;
        give another ``scale`` in the call.

    Raises:
        OSError: If the file or folder does not exist or cannot be read.
        ImportError: If diffusers is not installed.
        ValueError: If ``source`` is none of these. A checkpoint of a training needs its
            config.
    """
    require('diffusers', 'sr', 'SRDiffusionPipeline')
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    content = read_file(path, max_bytes)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    if not isinstance(meta, Mapping):
        result = convert_state(published_state(content, str(path)), str(path))
        if result.model_cfg['type'] != 'SRDiffusion':
            raise ConversionError(
                f'{path}: a {result.summary["network"]}, not a network for super-resolution'
            )
        return _from_config(result.model_cfg, result.state_dict, str(path), max_bytes)
    cfg = meta.get('model')
    if not isinstance(cfg, Mapping) or cfg.get('type') != 'SRDiffusion':
        raise ConversionError(
            f'{path}: does not describe its network: a checkpoint of training needs its config, too'
        )
    return _from_config(cfg, content.get('state_dict'), str(path), max_bytes)
