"""The base of all errors that a user can mend, and how long their sentences get."""

from __future__ import annotations

#: Characters of an error's sentence that a command line prints.
LONGEST_MESSAGE = 600


class MmesbnnError(ValueError):
    """Something given to mmesbnn cannot be used; the message says what and why."""


def shorten(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """One line of at most ``longest`` characters: the start and the end of ``text``.

    A name in a file from elsewhere can have any length and any character, so what does
    not print is written as an escape.

    Args:
        text: The text.
        longest: Number of characters, at least 20. Default: ``LONGEST_MESSAGE``.
    """
    line = (
        ' '.join(text[: 4 * longest].split())
        if len(text) <= 4 * longest
        else (' '.join((text[: 2 * longest] + ' ... ' + text[-2 * longest :]).split()))
    )
    line = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= longest:
        return line
    tail = longest // 4
    return f'{line[: longest - tail - 5]} ... {line[-tail:]}'


def sentence(error: BaseException) -> str:
    """Message of an error in one line: for an ``OSError`` the reason and the file."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its message
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f'{error.strerror}: {error.filename}'
    elif isinstance(error, UnicodeEncodeError):
        text = f'{error.object!r} cannot be written as {error.encoding}'
    return shorten(text) or type(error).__name__
