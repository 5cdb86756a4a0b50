"""Deployment of trained networks: 1-bit files, exports, and the runner of exports.

:class:`Runner` needs numpy, PIL, and openvino or the native library, but neither torch nor
OpenMMLab. Names are therefore imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..optional import require

_MODULES = {
    'ExportError': 'runtime.manifest',
    'ImageError': 'runtime.images',
    'Manifest': 'runtime.manifest_schema',
    'PackError': 'packed.file',
    'PackReport': 'packed.collecting',
    'Runner': 'runtime.runner',
    'export': 'openvino.export',
    'load_packed': 'packed.unpacking',
    'make_task': 'tasks.make',
    'pack': 'packed.packing',
    'pack_checkpoint': 'packed.packing',
    'read_manifest': 'runtime.manifest',
    'to_openvino': 'openvino.graph',
    'write_manifest': 'runtime.manifest',
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
        except ModuleNotFoundError as error:
            if error.name in ('PIL', 'openvino'):
                require(error.name, 'deploy', name)  # its error says how to install it
            raise
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return __all__
