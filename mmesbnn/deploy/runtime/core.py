"""The ``openvino.Core`` of this process."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

#: Options of every compilation. The CPU plugin computes as torch does with 32 bits only;
#: bfloat16 is its default on processors with matrix units.
COMPILE_OPTIONS = {'INFERENCE_PRECISION_HINT': 'f32'}

_LOCK = Lock()


@cache
def _make_core() -> Any:
    import openvino

    return openvino.Core()


def shared_core() -> Any:
    """The one ``openvino.Core`` with which networks are read and compiled.

    A second would be a danger: on Linux the CPU plugin of every Core gives its thread a
    signal stack (``sigaltstack``) and puts the former one back at its end. Of two Cores
    that end in the order they began in, the second puts back what the first has
    unmapped, and the process dies without a word at its next signal, such as the end of
    a child. Seen with OpenVINO 2026.4, whose ``compile_model`` makes a Core per call.

    Raises:
        ImportError: If openvino is not installed.
    """
    with _LOCK:
        return _make_core()
