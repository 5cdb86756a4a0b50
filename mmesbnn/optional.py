"""Packages that only a part of mmesbnn needs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # exports run where there is no mmengine
    from mmengine.registry import Registry


def require(
    package: str, extra: str, needed_by: str = 'This part of mmesbnn'
) -> ModuleType:
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
        return import_module(package)
    except ImportError as error:
        missing = (error.name or '').partition('.')[0] == package
        reason = 'is not installed' if missing else f'cannot be imported ({error})'
        raise ImportError(
            f'{needed_by} needs {package}, which {reason}: '
            f"pip install 'mmesbnn[{extra}]'",
            name=package,
        ) from (None if missing else error)


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
