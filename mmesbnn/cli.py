"""Ending of all command lines.

The module needs Python only, because some of them run without torch. A tool imports it first,
so that a signal ends the tool with one line even while it imports the rest.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from . import options
from .errors import MmesbnnError, sentence
from .whole_files import DISK_ERRORS, remove_unfinished

#: Errors that the user can fix. Any other error is a fault of mmesbnn and keeps its trace.
MENDABLE = (MmesbnnError, ImportError, MemoryError, OSError, ValueError)
#: Signals that end a process, if the system has them.
ENDING = ('SIGINT', 'SIGTERM', 'SIGHUP')
#: Seconds that open blocks have to end after the first signal.
PATIENCE = 10

Handler = Callable[[int, 'FrameType | None'], None]


class Stopped(BaseException):
    """Signal that ends the process, raised as an error at the current place.

    Open blocks therefore end as after an error, and remove partial files.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def _line(number: int) -> str:
    name = 'Ctrl-C' if number == signal.SIGINT else signal.Signals(number).name
    return f'{Path(sys.argv[0]).name}: stopped by {name}'


def _own(handler: Handler) -> Handler:
    """Return a handler that has no effect in a child process that inherits it."""
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        elif number == signal.SIGINT:  # workers of a data loader expect it
            signal.default_int_handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    handle.ends = True  # type: ignore[attr-defined]
    return handle


def _install(handler: Handler) -> dict[int, Any]:
    """Handle the signals that end a process, except those that are ignored or handled.

    Returns:
        Earlier handlers.
    """
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {}
    for number in numbers:
        old = signal.getsignal(number)
        if old in usual or hasattr(old, 'ends'):
            before[number] = old
            signal.signal(number, _own(handler))
    return before


def _forget() -> None:
    """Let the child of a fork end by signals as it would without our handlers.

    ``multiprocessing`` ends its workers by SIGTERM. One that waits for a lock, below
    Python, would never run a handler.
    """
    for name in ('SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)
        if number is not None and hasattr(signal.getsignal(number), 'ends'):
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget)


def _end_now(number: int, frame: FrameType | None) -> None:
    """Remove partial files and end the process at once."""
    remove_unfinished()
    with contextlib.suppress(Exception):  # a print may be running
        sys.stdout.flush()
    if not _Request.reported:
        os.write(2, f'{_line(number)}\n'.encode(errors='backslashreplace'))
    os._exit(128 + number)


class _Request:
    """First signal that asked the process to end."""

    number: int | None = None
    reported = False
    dropped = False


def _ask(number: int, frame: FrameType | None) -> None:
    """Raise the error of the first signal; end the process at the second one."""
    if _Request.number is not None:
        _end_now(_Request.number, frame)
    _Request.number = number
    alarm = getattr(signal, 'SIGALRM', None)
    if alarm is not None and signal.getsignal(alarm) is signal.SIG_DFL:
        signal.signal(alarm, _own(_remind))
        signal.alarm(PATIENCE)
    raise _raised(number)


def _raised(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


def _remind(alarm: int, frame: FrameType | None) -> None:
    """Raise the error again if Python dropped it, else end the process."""
    number = _Request.number
    if number is None:
        return
    if not _Request.dropped:
        _end_now(number, frame)
    _Request.dropped = False
    signal.alarm(PATIENCE)
    raise _raised(number)


def _unraisable(args: Any) -> None:
    """Record a signal at a place where Python cannot raise, such as a ``__del__``."""
    if _Request.number is None or not isinstance(args.exc_value, (KeyboardInterrupt, Stopped)):
        sys.__unraisablehook__(args)
    elif hasattr(signal, 'setitimer'):
        _Request.dropped = True
        signal.setitimer(signal.ITIMER_REAL, 0.01)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn signals that end the process into errors."""
    _Request.number, _Request.reported, _Request.dropped = None, False, False
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    before = _install(_ask)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if _Request.number is not None and hasattr(signal, 'SIGALRM'):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for number, old in before.items():
            signal.signal(number, old)


def _fail(message: str, status: int) -> int:
    print(f'{Path(sys.argv[0]).name}: {message}', file=sys.stderr)
    return status


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """Print bytes of a file's name unchanged, and characters without a code as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b''.join(
        bytes([ord(c) - 0xDC00])
        if '\udc80' <= c <= '\udcff'
        else c.encode('ascii', 'backslashreplace')
        for c in text
    ), error.end


codecs.register_error('mmesbnn.names', _escape)


def _flushed() -> bool:
    """Return True if all printed text has been written; if not, the rest is dropped."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        # Python would try again at its end
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _open_streams() -> None:
    """Replace streams that the caller has closed; what is printed there is lost.

    Libraries write to them without a check. A file that is opened later must not get the
    number of such a stream either, because libraries in C would write into it.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, 'w', encoding='utf-8'))


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Print no trace for each line of a log that cannot be written, as on a full disk."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-stored-config``, for tools that build a network from a file's config."""
    parser.add_argument(
        '--trust-stored-config',
        action='store_true',
        help='build any class that the config in the file names: this can run code',
    )


def add_cfg_options(parser: argparse.ArgumentParser, example: str = '') -> None:
    """Add ``--cfg-options``, for tools that read a config.

    Args:
        parser: Parser of the tool.
        example: Change that the help shows. Default ``''``: none.
    """
    from .config_changes import ConfigChanges  # slow

    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigChanges,
        metavar='KEY=VALUE',
        help='change entries of the config' + (f', for example {example}' if example else ''),
    )


def add_max_bytes(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-bytes``, for tools that read checkpoints or packed files."""
    parser.add_argument(
        '--max-bytes',
        type=options.memory,
        metavar='N',
        help='largest memory of the content of a file with weights (default: four times '
        'its size plus 256 MB)',
    )


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command line and end the process.

    The exit status is

    - the result of ``main`` (None: 0);
    - 2 after an error that the user can fix, with one line ``TOOL: sentence``;
    - 130 after Ctrl-C, 143 after SIGTERM and 129 after SIGHUP, with one line;
    - 141, without a line, if the reader of the output has ended.

    A second signal ends the process at once. So does the first one, if the process has not
    ended after ten seconds. Partial files and folders are removed.

    Args:
        main: Function that parses the arguments and does the work.
    """
    _open_streams()
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='mmesbnn.names')
    with _signals(), warnings.catch_warnings(), _quiet_logs():
        try:
            status = _status(main)
        except BaseException as error:  # a signal while another error is reported
            if _Request.number is None:
                _flushed()
                raise
            status = _stopped(error)
    sys.exit(status)


def _stopped(error: BaseException) -> int:
    number = _Request.number
    if number is None:  # other code raised it
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
    remove_unfinished()
    if not _Request.reported:
        _Request.reported = True
        print(_line(number), file=sys.stderr)
    _flushed()
    return 128 + number


def _status(main: Callable[[], int | None]) -> int | None:
    try:
        status = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (KeyboardInterrupt, Stopped) as error:
        return _stopped(error)
    except Exception as error:
        if _Request.number is not None:  # an error caused by the signal
            return _stopped(error)
        # before the rest is dropped, which lets an output that is full be written
        of_output = isinstance(error, OSError) and _is_of_output(error)
        _flushed()
        if isinstance(error, BrokenPipeError):
            return 141
        if not isinstance(error, MENDABLE):
            raise
        if of_output and isinstance(error, OSError):
            return _fail(f'{error.strerror}: the standard output', 2)
        return _fail(sentence(error), 2)
    return status


def _is_of_output(error: OSError) -> bool:
    """Return True if ``print`` raised the error: its errors hold no file name."""
    if error.errno not in DISK_ERRORS or error.filename is not None:
        return False
    try:
        os.write(sys.stdout.fileno(), b'\n')
    except (OSError, ValueError, AttributeError):
        return True
    return False


def _is_tool() -> bool:
    """Return True if the process runs a command line of this package."""
    script = getattr(sys.modules.get('__main__'), '__file__', None)
    if script is None:
        return False
    package = Path(__file__).resolve().parent
    tools = (package.parent / 'tools', package / '.mim' / 'tools')
    above = Path(script).resolve().parents
    return any(folder.resolve() in above for folder in tools)


def _end_imports(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Report what the imports of a tool do not find or refuse, as :func:`run` reports it."""
    if isinstance(error, (ImportError, MmesbnnError)):
        raise SystemExit(_fail(sentence(error), 2))
    sys.__excepthook__(kind, error, trace)


if _is_tool():
    sys.excepthook = _end_imports
    # before the imports, some of which keep the streams
    _open_streams()
    # before run() nothing is open that must be closed
    _install(_end_now)
