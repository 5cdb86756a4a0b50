"""Sizes of batches, as arguments of the tools that measure training steps."""

from __future__ import annotations

import re

from mmesbnn import options
from mmesbnn.checks import Rule


def _numbers(text: str) -> tuple[int, ...]:
    if re.fullmatch(r'[1-9]\d{0,4}x[1-9]\d{0,4}', text) is None:
        raise ValueError
    return tuple(map(int, text.split('x')))


#: Number of images, and their height and width.
batch_and_pixels = options.option(_numbers, Rule('BATCHxPIXELS, such as 4x224', bool))
