"""Types of command-line options, with errors that name the rule.

    parser.add_argument('--batch', type=count)  # argument --batch: '0' must be ...

The module needs Python only, because some command lines run without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checks import Rule, filled_text, integer, number
from .errors import shorten


def option(kind: Callable[[str], Any], rule: Rule) -> Callable[[str], Any]:
    """Return a type for argparse: it applies ``kind`` to the text and checks ``rule``.

    Args:
        kind: ``int``, ``float`` or ``str``.
        rule: Rule of :mod:`mmesbnn.checks`.
    """

    def read(given: str) -> Any:
        try:
            value = kind(given)
        except (OverflowError, ValueError):
            value = None
        if value is None or not rule.accepts(value):
            raise argparse.ArgumentTypeError(f'{shorten(repr(given), 100)} must be {rule.says}')
        return value

    return read


#: A number of images, threads or steps. Larger numbers are probably typing errors.
count = option(int, integer(1, 10**6))
#: A length in pixels.
pixels = option(int, integer(1, 2**16))
#: A length in pixels, or 0 for none.
pixels_or_none = option(int, integer(0, 2**16))
#: Number of pixels of an image, height times width.
area = option(int, integer(1, 2**40))
#: A number of bytes of memory.
memory = option(int, integer(1, 2**40))
#: A seed that every generator of random numbers accepts.
seed = option(int, integer(0, 2**31 - 1))
natural = option(int, integer(0, 10**6))
fraction = option(float, number(0, 1))
positive = option(float, number(above=0))
not_negative = option(float, number(least=0))
#: A name or path, not empty: empty text is often a variable of a script that is not set.
name = option(str, filled_text)


def path(given: str) -> Path:
    """As ``name``, a ``Path``: an empty one would be the current folder."""
    return Path(name(given))


def absolute(given: str) -> Path:
    """As ``path``, absolute, for a tool that changes its current folder."""
    return path(given).absolute()
