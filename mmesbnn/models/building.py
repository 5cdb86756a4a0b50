"""Building parts from configs, with errors that name the argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.registry import MODELS, Registry

from ..checks import shown
from ..errors import sentence


@contextmanager
def naming(name: str, value: Any) -> Iterator[None]:
    """Turn what is wrong with a part into a ``ValueError`` that names the argument.

    Args:
        name: The argument.
        value: Its value.
    """
    try:
        yield
    except (
        AssertionError,
        AttributeError,
        LookupError,
        NotImplementedError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f'{shown(name, value)}: {sentence(error)}') from error


def build_part(name: str, cfg: Any, registry: Registry = MODELS) -> Any:
    """``registry.build(cfg)``; what is wrong with ``cfg`` is a ``ValueError``.

    Args:
        name: The argument that ``cfg`` came from.
        cfg: Config of the part, with ``type``.
        registry: Where to look ``type`` up. Default: mmengine's ``MODELS``.
    """
    with naming(name, cfg):
        return registry.build(cfg)
