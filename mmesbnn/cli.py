"""What all command lines share: how they end.

Needs Python alone, since some of them run without torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .errors import MmesbnnError, sentence

#: What the user can mend. Any other error is a fault of ours, and keeps its trace.
MENDABLE = (MmesbnnError, ImportError, MemoryError, OSError, ValueError)


class Stopped(BaseException):
    """A signal that asks the process to end, raised where the process stands.

    So the blocks that are open end as after an error, and remove what is half written.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def _stop(owner: int) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a child process that inherited the handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise Stopped(number)

    return handle


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let signals that end the process raise :class:`Stopped` instead."""
    before = {}
    for name in ('SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP: leave it so
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, _stop(os.getpid()))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fail(message: str, status: int) -> int:
    print(f'{Path(sys.argv[0]).name}: {message}', file=sys.stderr)
    return status


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line and end the process.

    Exit status: what ``main`` returns (None: 0). 2 after an error that the user can
    mend, with one line ``TOOL: sentence``. 130 after Ctrl-C, 143 after SIGTERM, 129
    after SIGHUP, with one line. 141 without a word if the reader of the output went
    away.

    Args:
        main: Parses the arguments and does the work.
    """
    with _signals(), warnings.catch_warnings():
        sys.exit(_status(main))


def _status(main: Callable[[], int | None]) -> int | None:
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail('stopped by Ctrl-C', 130)
    except Stopped as stopped:
        name = signal.Signals(stopped.number).name
        return _fail(f'stopped by {name}', 128 + stopped.number)
    except BrokenPipeError:
        # Python flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MENDABLE as error:
        return _fail(sentence(error), 2)
    return status
