"""Builder of parts from configs; its errors name the argument."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.registry import MODELS, Registry

from ..checks import shown
from ..errors import sentence


@contextmanager
def naming(name: str, value: Any) -> Iterator[None]:
    """Turn errors about a part into a ``ValueError`` that names the argument.

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
    """Return ``registry.build(cfg)``; raise a ``ValueError`` if ``cfg`` is wrong.

    Args:
        name: Argument that holds ``cfg``, for the error message.
        cfg: Config of the part, with ``type``.
        registry: Registry that knows ``type``. Default: mmengine's ``MODELS``.
    """
    with naming(name, cfg):
        return registry.build(cfg)
