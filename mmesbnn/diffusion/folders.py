"""Checks of diffusers' folders before they are loaded.

diffusers reads names of classes and modules from the JSON files of a folder, runs Python
files in it, and fetches missing parts from a hub. A folder may come from an unknown
source. Its parts must therefore exist, be of the classes listed here, and have their
weights in safetensors.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints.bounded import bounded_load
from ..checkpoints.state_dicts import listed
from ..errors import MmesbnnError, sentence, shorten
from ..optional import require
from ..plain_values import read_json
from .named import is_ours

#: UNets, and the module that ``model_index.json`` names for each.
UNETS = {
    'BIDiffSRResidualUNet': 'mmesbnn.diffusion.residual',
    'BIDiffSRUNet': 'mmesbnn.diffusion.bi_diffsr',
    'BinarizedUNet2DConditionModel': 'mmesbnn.diffusion.binarized',
    'BinarizedUNet2DModel': 'mmesbnn.diffusion.binarized',
    'UNet2DModel': 'diffusers',
}
_SCHEDULERS = """
    DDIMParallelScheduler DDIMScheduler DDPMParallelScheduler DDPMScheduler
    DEISMultistepScheduler DPMSolverMultistepScheduler
    DPMSolverSinglestepScheduler EulerAncestralDiscreteScheduler EulerDiscreteScheduler
    HeunDiscreteScheduler KDPM2AncestralDiscreteScheduler KDPM2DiscreteScheduler
    LCMScheduler LMSDiscreteScheduler PNDMScheduler SASolverScheduler TCDScheduler
    UniPCMultistepScheduler
"""
#: Schedulers; all of them are classes of diffusers.
SCHEDULERS = dict.fromkeys(_SCHEDULERS.split(), 'diffusers')

#: Parts of a pipeline that are loaded, and the file that describes each.
_PARTS = {'unet': (UNETS, 'config.json'), 'scheduler': (SCHEDULERS, 'scheduler_config.json')}
#: Largest whole number in the description of a scheduler. Schedulers make tables of such lengths.
_LARGEST = 10**6
#: Memory that a byte of weights may take while diffusers builds and loads a network, which holds
#: all numbers twice, and maybe in another dtype. A byte of packed weights becomes eight floats.
_GROWTH, _GROWTH_OF_BITS = 32, 256
#: True while a folder is loaded: a pipeline loads its UNet by the same functions.
_loading = ContextVar('loading', default=False)
#: Names of layers of attentions in files of old versions of diffusers, which it replaces.
_OLD_NAMES = {'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0'}
#: Keys that would load foreign code or packages.
_FOREIGN = ('auto_map', 'custom_pipeline', 'quantization_config')

#: Arguments with which diffusers loads a checked folder: from the disk, without pickles.
LOCAL: dict[str, Any] = {'local_files_only': True, 'use_safetensors': True}


class FolderError(MmesbnnError):
    """Error about a folder of diffusers that cannot be loaded; the message says why."""


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{folder}: no such folder; mmesbnn does not load from a hub, so download it first'
        )
    code = next(folder.glob('*.py'), None)
    if code is not None:
        raise FolderError(f'{code}: a folder with Python files is not loaded')


def _described(path: Path) -> dict[str, Any]:
    """Read a JSON file of diffusers; keys that load code raise an error."""
    content = read_json(path)
    for key in _FOREIGN:
        own = key == 'quantization_config' and is_ours(content.get(key))
        if content.get(key) is not None and not own:
            raise FolderError(f'{path}: {key} is not supported')
    if not isinstance(content.get('_class_name'), str):
        found = shorten(repr(content.get('_class_name')), 60)
        raise FolderError(f'{path}: _class_name={found} must be the name of a class')
    return content


def _check_class(path: Path, name: Any, known: Collection[str]) -> None:
    if not isinstance(name, str) or name not in known:
        raise FolderError(
            f'{path}: describes a {shorten(str(name), 60)}; known are ' + ', '.join(sorted(known))
        )


def check_unet(folder: str | os.PathLike[str], known: Collection[str] = UNETS) -> str:
    """Check a folder that ``save_pretrained`` of a UNet wrote.

    Args:
        folder: Folder to check.
        known: Names of the allowed classes. Default ``UNETS``.

    Returns:
        Name of the class of the UNet.

    Raises:
        FileNotFoundError: If the folder, its config or its weights are missing.
        FolderError: If it describes another class, or holds code or an unsupported key.
        ConfigError: If ``config.json`` is damaged.
    """
    folder = Path(folder)
    _check_folder(folder)
    config = folder / 'config.json'
    name = _described(config)['_class_name']
    _check_class(config, name, known)
    weights = sorted(folder.glob('*.safetensors'))
    if not weights:
        raise FileNotFoundError(
            f'{folder}: holds no weights in safetensors; save_pretrained writes them'
        )
    for file in weights:
        if not file.is_file():  # a pipe would be waited for without end
            raise FolderError(f'{file}: is no plain file')
    for index in folder.glob('*.index*.json'):  # with a variant: .index.fp16.json
        _check_shards(index)
    return name


def load_unet(kind: Any, folder: str | os.PathLike[str], **kwargs: Any) -> Any:
    """Load a UNet from a folder that :func:`check_unet` has accepted.

    Args:
        kind: Class of the UNet.
        folder: Folder to load.
        **kwargs: Passed to ``from_pretrained``.

    Raises:
        FolderError: If weights and config do not match or are damaged.
    """
    with loading(folder):
        found = kind.from_pretrained(folder, **{**kwargs, **LOCAL})
        check_weights(found[0] if kwargs.get('output_loading_info') else found, folder)
        return found


def check_weights(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Check that the files of a folder hold the weights of a model, and no others.

    diffusers only warns, and weights that no file holds stay random.

    Args:
        model: Model that was loaded from the folder.
        folder: Folder of the weights.

    Raises:
        MmesbnnError: If they differ; the message names the first differences.
    """
    from safetensors import safe_open  # diffusers needs it, and this module is imported without

    check_complete(model)
    if is_packed(Path(folder)):  # the quantizer has compared them
        return
    stored: set[str] = set()
    for file in Path(folder).glob('*.safetensors'):
        with safe_open(file, 'pt') as weights:
            stored.update(map(_new_name, weights.keys()))
    own = model.state_dict().keys()
    for what, names in (('lack', own - stored), ('hold unknown entries:', stored - own)):
        if names:
            raise MmesbnnError(f'the weights {what} {listed(sorted(names))} of its config')


def _new_name(key: str) -> str:
    """Return the name of a weight whose file was written by an old version of diffusers."""
    for old, new in _OLD_NAMES.items():
        key = key.replace(f'.{old}.', f'.{new}.')
    return key


def check_complete(model: nn.Module) -> None:
    """Check that every parameter and buffer has values.

    diffusers leaves those that no file holds on the meta device, and only warns.

    Args:
        model: Model that was loaded.

    Raises:
        MmesbnnError: If one has none; the message names the first one.
    """
    for name, x in chain(model.named_parameters(), model.named_buffers()):
        if x.is_meta:
            raise MmesbnnError(f'the weights lack {name} of {type(model).__name__}')


def is_packed(unet: Path) -> bool:
    """Return whether the binary weights in a folder of a UNet may have one bit each."""
    config = unet / 'config.json'
    return config.is_file() and is_ours(read_json(config).get('quantization_config'))


@contextlib.contextmanager
def _bounded(unet: Path) -> Iterator[None]:
    """Limit the memory in this block to that of a network with the weights in a folder."""
    if _loading.get():
        yield
        return
    weights = sum(file.stat().st_size for file in unet.glob('*.safetensors'))
    before = _loading.set(True)
    try:
        with bounded_load(weights, _GROWTH_OF_BITS if is_packed(unet) else _GROWTH):
            yield
    finally:
        _loading.reset(before)


@contextlib.contextmanager
def loading(folder: str | os.PathLike[str], part: str = '') -> Iterator[None]:
    """Limit the memory of loading, and explain errors.

    Damaged files and wrong arguments raise nearly anything, which becomes a sentence.

    Args:
        folder: Folder to load.
        part: Folder of the UNet in it. Default ``''``: the folder itself.

    Raises:
        FolderError: For any error but a lack of a package or of memory.
    """
    try:
        with _bounded(Path(folder, part)):
            yield
    except (FolderError, ImportError, MemoryError):
        raise
    except Exception as error:  # damaged weights and arguments raise many kinds of errors
        raise FolderError(f'{folder}: {sentence(error)}') from error


class LocalModel:
    """Base of diffusers' models that are read from folders, which are checked first."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load the model from a folder; nothing is fetched from a hub.

        Args:
            pretrained_model_name_or_path: The folder that ``save_pretrained`` wrote.
            subfolder: Folder of the model inside it, such as ``'unet'`` of a pipeline. Default
                None.
            **kwargs: As any model's of diffusers, such as ``torch_dtype``.

        Raises:
            FileNotFoundError: If the folder, its config or its weights are missing.
            ValueError: If it is that of another model, or damaged.
        """
        folder = Path(pretrained_model_name_or_path, subfolder or '')
        check_unet(folder, [cls.__name__])  # another class computes something else
        with loading(folder):
            return load_signs(super().from_pretrained, folder, **{**kwargs, **LOCAL})  # type: ignore[misc]


def load_signs(load: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Load a binary model whose smallest weights keep their signs in a narrow dtype.

    They keep them if the model is converted, but not if diffusers converts what it reads.

    Args:
        load: ``from_pretrained`` of diffusers.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Raises:
        MmesbnnError: If a parameter or buffer has no values.
    """
    narrow = {name: x for name, x in kwargs.items() if is_narrow(x)}
    found = load(*args, **{name: x for name, x in kwargs.items() if name not in narrow})
    model = found[0] if kwargs.get('output_loading_info') else found
    check_complete(model)
    for dtype in narrow.values():
        model.to(dtype)
    return found


def is_narrow(value: Any) -> bool:
    """Return whether ``value`` is a dtype in which the smallest weights of float32 are 0."""
    return isinstance(value, torch.dtype) and value.itemsize < torch.float32.itemsize


def _check_scheduler(path: Path, kind: str, described: dict[str, Any]) -> None:
    """Check the types of a scheduler's arguments, which it would use at the first image only."""
    known = inspect.signature(getattr(require('diffusers', 'sr', kind), kind)).parameters
    for key, value in described.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise FolderError(f'{path}: {shorten(key, 60)}={value} must be at most {_LARGEST}')
        wanted = type(known[key].default) if key in known else object
        if key == 'trained_betas':
            wanted = list
        if wanted not in (bool, int, float, str, list) or value is None:
            continue
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            found = shorten(repr(value), 60)
            raise FolderError(f'{path}: {key}={found} must be of the type {wanted.__name__}')


def _check_shards(index: Path) -> None:
    """Check that the weight files of an index lie next to it, in safetensors."""
    shards = read_json(index).get('weight_map')
    files = shards.values() if isinstance(shards, dict) else [None]
    for file in files:
        if not isinstance(file, str) or Path(file).name != file:
            raise FolderError(f'{index}: names {shorten(repr(file), 60)} as a file')
        if not file.endswith('.safetensors') or not (index.parent / file).is_file():
            raise FolderError(f'{index}: {shorten(file, 60)} is not a safetensors file')


def check_pipeline(folder: str | os.PathLike[str], given: Collection[str] = ()) -> None:
    """Check a folder that ``save_pretrained`` of a pipeline wrote.

    Args:
        folder: Folder to check.
        given: Parts that are not loaded from the folder. Default ``()``.

    Raises:
        FileNotFoundError: If the folder or a part of it is missing.
        FolderError: If a part is of another class, or holds code or an unsupported key.
        ConfigError: If a JSON file is damaged.
    """
    folder = Path(folder)
    _check_folder(folder)
    path = folder / 'model_index.json'
    index = _described(path)
    for name, entry in index.items():
        if name.startswith('_') or not isinstance(entry, (list, dict)):
            continue
        if name not in _PARTS:
            raise FolderError(f'{path}: names the unknown part {shorten(name, 60)}')
        if name not in given:
            _check_part(folder, name, entry)
    if 'unet' not in given and not isinstance(index.get('unet'), list):
        raise FolderError(f'{path}: names no unet')


def _check_part(folder: Path, name: str, entry: Any) -> None:
    known, described = _PARTS[name]
    path = folder / 'model_index.json'
    if entry == [None, None]:  # an optional part that was not saved
        return
    if not isinstance(entry, list) or len(entry) != 2:
        raise FolderError(f'{path}: {name}={shorten(repr(entry), 60)} names no class')
    library, kind = entry
    _check_class(path, kind, known)
    if library != known[kind]:
        found = shorten(repr(library), 60)
        raise FolderError(f'{path}: {kind} is of {known[kind]}, not of {found}')
    _check_folder(folder / name)
    content = _described(folder / name / described)
    found = content['_class_name']
    if found != kind:
        raise FolderError(
            f'{folder / name / described}: describes a {shorten(found, 60)}, and '
            f'model_index.json a {kind}'
        )
    if name == 'unet':
        check_unet(folder / name)
    else:
        _check_scheduler(folder / name / described, kind, content)
