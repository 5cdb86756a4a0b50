"""Shipping trained networks: 1-bit files, exports, and running them.

What runs an export (:class:`Runner`) needs openvino, numpy and PIL, and neither torch
nor OpenMMLab; so names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    'ExportError': 'manifest',
    'ImageError': 'images',
    'PackError': 'packed_file',
    'PackReport': 'packing',
    'Runner': 'runner',
    'load_packed': 'unpacking',
    'pack': 'packing',
    'pack_checkpoint': 'packing',
    'read_manifest': 'manifest',
    'write_manifest': 'manifest',
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
