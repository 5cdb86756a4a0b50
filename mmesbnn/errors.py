"""Base of all errors that a user can fix, and texts that a terminal can show."""

from __future__ import annotations

#: Largest number of characters of an error's sentence on a command line.
LONGEST_MESSAGE = 600


class MmesbnnError(ValueError):
    """Base of errors about inputs that cannot be used; the message names the input."""


def printable(text: str) -> str:
    """Return ``text`` with escapes for characters that cannot be printed.

    A file's name can hold line ends and commands for the terminal.
    """
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shorten(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Shorten ``text`` to one line of ``longest`` characters, with its start and end.

    A name in a file from an unknown source can have any length and any character.
    Characters that cannot be printed are therefore escaped.

    Args:
        text: Text to shorten.
        longest: Number of characters, at least 20. Default: ``LONGEST_MESSAGE``.
    """
    line = (
        ' '.join(text[: 4 * longest].split())
        if len(text) <= 4 * longest
        else (' '.join((text[: 2 * longest] + ' ... ' + text[-2 * longest :]).split()))
    )
    line = printable(line)
    if len(line) <= longest:
        return line
    tail = longest // 4
    return f'{line[: longest - tail - 5]} ... {line[-tail:]}'


def sentence(error: BaseException) -> str:
    """Return an error's message in one line: for an ``OSError`` the reason and the file."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its message
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f'{error.strerror}: {error.filename}'
    elif isinstance(error, UnicodeEncodeError):
        text = f'{error.object!r} cannot be written as {error.encoding}'
    return shorten(text) or type(error).__name__
