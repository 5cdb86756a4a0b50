"""Shared ``openvino.Core`` of the process."""

from __future__ import annotations

import os
from functools import cache
from threading import Lock
from typing import Any

from .manifest import ExportError

#: Options of every compilation. The CPU plugin gives torch's results in 32 bits only, but
#: its default on processors with matrix units is bfloat16.
COMPILE_OPTIONS = {'INFERENCE_PRECISION_HINT': 'f32'}

_LOCK = Lock()


@cache
def _make_core() -> tuple[Any, int]:
    """Return the core, and the process that made it."""
    import openvino

    return openvino.Core(), os.getpid()


def shared_core() -> Any:
    """Return the single ``openvino.Core`` that reads and compiles networks.

    A second Core would be dangerous. On Linux the CPU plugin of every Core gives its thread
    a signal stack (``sigaltstack``), and restores the previous stack at its end. If two
    Cores end in the order in which they began, the second restores a stack that the first
    has unmapped. The process then dies without a message at its next signal, such as the
    end of a child process. This was observed with OpenVINO 2026.4, whose
    ``compile_model`` makes a Core per call.

    A forked child has the Core but none of its threads, and would wait for them forever.

    Raises:
        ImportError: If openvino is not installed.
        ExportError: If this process was forked from the one that uses OpenVINO.
    """
    with _LOCK:
        core, owner = _make_core()
    if owner != os.getpid():
        raise ExportError(
            'OpenVINO was used before this process was forked, and does not work in it: start '
            "processes with the method 'spawn', or make Runners in the children only"
        )
    return core
