"""Packages that only a part of mmesbnn needs."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # exports run where there is no mmengine
    from mmengine.registry import Registry


def require(package: str, extra: str, needed_by: str = 'This part of mmesbnn') -> ModuleType:
    """Import ``package``, or say in one sentence how to install it.

    Args:
        package: Name of the package, as imported.
        extra: Extra of mmesbnn that installs it.
        needed_by: What needs it, the subject of the sentence.

    Returns:
        The imported package.

    Raises:
        ImportError: If the package is missing, or one that it needs itself.
    """
    try:
        module = import_module(package)
        if package == 'mmpretrain':
            _check_transformers(needed_by)
        return module
    except ImportError as error:
        if error.name == 'transformers':
            raise
        missing = (error.name or '').partition('.')[0] == package
        reason = 'is not installed' if missing else f'cannot be imported ({error})'
        raise ImportError(
            f"{needed_by} needs {package}, which {reason}: pip install 'mmesbnn[{extra}]'",
            name=package,
        ) from (None if missing else error)


def _check_transformers(needed_by: str) -> None:
    """Say in one sentence that mmpretrain and transformers do not fit each other.

    mmpretrain 1.2 uses transformers if that and mmdet's pycocotools are there, and
    derives classes from names that transformers 5 no longer has.
    """
    if find_spec('transformers') is None:
        return
    try:
        import_module('mmpretrain.models')
    except Exception as error:  # as a TypeError: NoneType takes no arguments
        raise ImportError(
            f'{needed_by} needs mmpretrain, which cannot be imported beside '
            f'transformers {version("transformers")} ({error}): '
            "pip install 'transformers<5'",
            name='transformers',
        ) from error


def register_detection(registry: Registry, name: str, module: str) -> None:
    """Register a component that is made of mmdet's classes, without importing these.

    What is registered is a function that imports ``module``, and with it mmdet and
    mmcv's compiled operators, and builds the class ``name`` of it.

    Args:
        registry: Registry of mmengine's root.
        name: Name of the class, and in the registry.
        module: Full name of the module that it is in.
    """

    def build(**kwargs: Any) -> Any:
        for package in ('mmdet', 'mmcv.ops'):
            require(package, 'det', name)
        return getattr(import_module(module), name)(**kwargs)

    build.__name__ = name
    build.__doc__ = f'Build a :class:`~{module}.{name}`.'
    registry.register_module(name=name, module=build)
