"""Types of command-line options, with errors that name the rule.

    parser.add_argument('--batch', type=count)  # argument --batch: '0' must be ...

Needs Python alone, since some command lines run without torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .checks import Rule, filled_text, integer, number
from .errors import shorten


def option(kind: Callable[[str], Any], rule: Rule) -> Callable[[str], Any]:
    """A type of argparse: ``kind`` of the text, which must follow ``rule``.

    Args:
        kind: ``int``, ``float`` or ``str``.
        rule: One of :mod:`mmesbnn.checks`.
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


#: How many of something: images, threads, steps. Larger ones are slips.
count = option(int, integer(1, 10**6))
#: A length in pixels.
pixels = option(int, integer(1, 2**16))
#: As ``pixels``; 0 means none.
pixels_or_none = option(int, integer(0, 2**16))
#: Pixels of an image, height by width.
area = option(int, integer(1, 2**40))
#: Bytes of memory.
memory = option(int, integer(1, 2**40))
#: Of random numbers: what every generator takes.
seed = option(int, integer(0, 2**31 - 1))
natural = option(int, integer(0, 10**6))
fraction = option(float, number(0, 1))
positive = option(float, number(above=0))
not_negative = option(float, number(least=0))
#: A name or path; an empty one is a variable of a script that was not set.
name = option(str, filled_text)
