"""Reader of configs, and builder of their models."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from ..checks import checked, instance
from ..errors import shorten
from ..models.classifiers import student_config
from ..optional import require
from ..plain_files import open_plain
from .errors import InputError, explained
from .plain_yaml import plain_yaml

#: Extra of mmesbnn that installs the package of a config's default scope; None: none does.
EXTRAS = {'mmpretrain': 'cls', 'mmdet': 'det', 'mmseg': None}


#: Rules of arguments.
CONFIG = instance(Config, 'a Config of mmengine')
MODEL = instance(nn.Module, 'an nn.Module')


def _check_entries(path: Path) -> None:
    """Raise an error if a file in JSON or YAML holds no dict, at which mmengine only trips."""
    if path.suffix in ('.json', '.yaml', '.yml'):
        content = load(path)
        if not isinstance(content, Mapping):
            found = shorten(repr(content), 60)
            raise InputError(f'cannot read the config {path}: it holds {found}, not a dict')


@checked()
def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and make its default scope the current one.

    A config in Python is run as code, and any config can build any class that it names.
    Read only configs that you trust. YAML is read without tags that run code.

    Args:
        path: Path of the config.
        options: Entries to change, such as ``{'model.backbone.tau': 4}``. Default None.

    Raises:
        InputError: If it cannot be read, has no model, or needs a package that is not
            installed.
    """
    with explained(f'cannot read the config {path}'), plain_yaml():
        file = Path(path).expanduser()
        open_plain(file).close()  # mmengine would wait for a pipe
        _check_entries(file)
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    scope = cfg.get('default_scope') or 'mmengine'
    if not isinstance(scope, str):
        found = shorten(repr(scope), 60)
        raise InputError(f'{path}: default_scope={found} must be a text or None')
    if scope in EXTRAS:
        with explained('cannot use the config'):
            require(scope, EXTRAS[scope], str(path))
    if not isinstance(cfg.get('model'), dict):
        raise InputError(f'{path} has no model')
    init_default_scope(scope)
    return cfg


def scope_of(config: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which ``config`` finds the components of its default scope.

    Raises:
        ImportError: If the scope's package is not installed.
    """
    scope = config.get('default_scope') or 'mmengine'
    if scope in EXTRAS:
        require(scope, EXTRAS[scope], 'The network')
    return DefaultScope.overwrite_default_scope(scope)


@checked(cfg=CONFIG)
def deployed_config(cfg: Config) -> dict[str, Any]:
    """Return the config of the deployed model of ``cfg``, without teachers.

    It holds the config's ``data_preprocessor``, which normalizes the images. mmengine's
    runner adds it in the same way.
    """
    model = student_config(cfg.model)
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


@checked(cfg=CONFIG)
def build_model(cfg: Config) -> nn.Module:
    """Build the deployed model of ``cfg``, without weights.

    Raises:
        InputError: If it cannot be built.
    """
    with explained('cannot build the model'):
        return MODELS.build(deployed_config(cfg))


def type_name(kind: Any) -> str:
    """Return the name of a component without its scope: ``'Resize'`` for ``'mmdet.Resize'``.

    Args:
        kind: ``type`` of an entry, a name or a class.
    """
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[2]
