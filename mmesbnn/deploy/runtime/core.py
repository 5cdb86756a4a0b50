"""Shared ``openvino.Core`` of the process."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

#: Options of every compilation. The CPU plugin gives torch's results in 32 bits only, but
#: its default on processors with matrix units is bfloat16.
COMPILE_OPTIONS = {'INFERENCE_PRECISION_HINT': 'f32'}

_LOCK = Lock()


@cache
def _make_core() -> Any:
    import openvino

    return openvino.Core()


def shared_core() -> Any:
    """Return the single ``openvino.Core`` that reads and compiles networks.

    A second Core would be dangerous. On Linux the CPU plugin of every Core gives its thread
    a signal stack (``sigaltstack``), and restores the previous stack at its end. If two
    Cores end in the order in which they began, the second restores a stack that the first
    has unmapped. The process then dies without a message at its next signal, such as the
    end of a child process. This was observed with OpenVINO 2026.4, whose
    ``compile_model`` makes a Core per call.

    Raises:
        ImportError: If openvino is not installed.
    """
    with _LOCK:
        return _make_core()
