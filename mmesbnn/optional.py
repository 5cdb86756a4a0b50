"""Imports of packages that only a part of mmesbnn needs."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # exports run without mmengine
    from mmengine.registry import Registry


#: Packages that pip installs for what no extra of mmesbnn has.
_PIP = {'mmseg': 'mmsegmentation ftfy regex'}


def require(package: str, extra: str | None, needed_by: str = 'This part of mmesbnn') -> ModuleType:
    """Import ``package``; an error says in one sentence how to install it.

    Args:
        package: Name of the package, as imported.
        extra: Extra of mmesbnn that installs it; None for a package without one.
        needed_by: Part that needs the package, the subject of the sentence. Default 'This
            part of mmesbnn'.

    Returns:
        Imported package.

    Raises:
        ImportError: If the package, or a package that it needs, is missing.
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
        what = _PIP[package] if extra is None else f"'mmesbnn[{extra}]'"
        raise ImportError(
            f'{needed_by} needs {package}, which {reason}: pip install {what}', name=package
        ) from (None if missing else error)


def _check_transformers(needed_by: str) -> None:
    """Raise an error if mmpretrain cannot be used with the installed transformers.

    mmpretrain 1.2 uses transformers if it and mmdet's pycocotools are installed. It derives
    classes from names that transformers 5 no longer has.
    """
    if find_spec('transformers') is None:
        return
    try:
        import_module('mmpretrain.models')
    except Exception as error:  # as a TypeError: NoneType takes no arguments
        raise ImportError(
            f'{needed_by} needs mmpretrain, which cannot be imported with '
            f'transformers {version("transformers")} ({error}): '
            "pip install 'transformers<5'",
            name='transformers',
        ) from error


def register_detection(registry: Registry, name: str, module: str) -> None:
    """Register a component that uses mmdet's classes, without importing mmdet.

    The registered function imports ``module``, which imports mmdet and mmcv's compiled
    operators, and builds the class ``name``.

    Args:
        registry: Registry of mmengine's root.
        name: Name of the class and of the entry in the registry.
        module: Full name of the module of the class.
    """

    def build(**kwargs: Any) -> Any:
        for package in ('mmdet', 'mmcv.ops'):
            require(package, 'det', name)
        return getattr(import_module(module), name)(**kwargs)

    build.__name__ = name
    build.__doc__ = f'Build a :class:`~{module}.{name}`.'
    registry.register_module(name=name, module=build)
