"""Registration of ``BinaryConfig`` with diffusers, without an import of diffusers.

diffusers looks quantization methods up in two dicts of ``diffusers.quantizers.auto``. If
this module was imported before mmesbnn, the method is added at once, else right after its
import. So the order of ``import mmesbnn`` and ``import diffusers`` does not matter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from ..optional import require
from .named import METHOD

#: Module with the dicts.
AUTO = 'diffusers.quantizers.auto'
#: First release of diffusers in which a quantizer can store its own tensors.
LOWEST = '0.39.0'


def _is_old(base: Any) -> bool:
    """Return whether quantizers of this diffusers cannot store their own tensors."""
    hooks = ('get_state_dict_and_metadata', 'maybe_update_loaded_keys', 'maybe_update_state_dict')
    return not all(hasattr(base, hook) for hook in hooks)


def _register(auto: Any) -> None:
    """Add the method to the dicts of the module ``auto``."""
    if _is_old(import_module('diffusers.quantizers.base').DiffusersQuantizer):
        return  # BinaryConfig says it when it is used
    config = import_module('.quantization_config', __package__)
    quantizer = import_module('.quantizer', __package__)
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = config.BinaryConfig
    auto.AUTO_QUANTIZER_MAPPING[METHOD] = quantizer.BinaryQuantizer


class _AfterImport(MetaPathFinder):
    """Finder of one module of diffusers; its loader registers the method, too."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != AUTO:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _register(module)

        loader.exec_module = exec_module
        return spec


def register() -> None:
    """Register the method now, or as soon as diffusers' quantizers are imported."""
    if AUTO in sys.modules:
        _register(sys.modules[AUTO])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def require_quantizers(needed_by: str) -> None:
    """Raise an error if diffusers is missing or too old for quantizers of other packages.

    Raises:
        ImportError: In this case.
    """
    version = require('diffusers', 'sr', needed_by).__version__
    try:
        base = import_module('diffusers.quantizers.base').DiffusersQuantizer
    except ModuleNotFoundError:
        base = None
    if _is_old(base):
        raise ImportError(
            f'{needed_by} needs diffusers>={LOWEST}, and {version} is installed: '
            f"pip install 'diffusers>={LOWEST}'",
            name='diffusers',
        )
