"""Building parts from configs, with errors that name the argument."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS, Registry

from ..checks import shown
from ..errors import sentence


def build_part(name: str, cfg: Any, registry: Registry = MODELS) -> Any:
    """``registry.build(cfg)``; what is wrong with ``cfg`` is a ``ValueError``.

    Args:
        name: The argument that ``cfg`` came from.
        cfg: Config of the part, with ``type``.
        registry: Where to look ``type`` up. Default: mmengine's ``MODELS``.
    """
    try:
        return registry.build(cfg)
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f'{shown(name, cfg)}: {sentence(error)}') from error
