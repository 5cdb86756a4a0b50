"""Inputs for which rounding flips no sign, so that any two engines agree.

Two engines round differently, and one engine rounds differently on two processors. If the
input of a sign is close to 0, rounding may flip the sign, and the outputs differ by more
than rounding. Tests that need equal outputs therefore draw inputs without such values.
"""

import copy

import numpy as np
import torch

from mmesbnn.binary.signs import HardTanhSign, IdentitySign, QuadraticSign

#: Least distance of a sign's input from 0, relative to the input's mean magnitude. The error
#: in float32 is less than 1e-6.
MARGIN = 3e-6


def margin(model, *inputs):
    """Return the least such distance in ``model`` on ``inputs``, in float64.

    Exact zeros do not count. They come from padding or a ReLU and are equal in all engines.
    """
    model, found = copy.deepcopy(model).double().eval(), [float('inf')]

    def look(module, args):
        distances = args[0].abs()
        found.append(float((distances[distances > 0] / distances.mean()).min()))

    for module in model.modules():
        if isinstance(module, (HardTanhSign, IdentitySign, QuadraticSign)):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        model(*(x.double() for x in inputs))
    return min(found)


def apart(model, draw, tries=400):
    """Return the first inputs from ``draw`` for which no sign is near 0.

    Args:
        model: A network.
        draw: Returns a new tensor, or a new tuple of tensors, at each call.
        tries: Largest number of calls.
    """
    for _ in range(tries):
        inputs = draw()
        if margin(model, *(inputs if isinstance(inputs, tuple) else (inputs,))) > MARGIN:
            return inputs
    raise AssertionError(f'{tries} inputs all have a value next to a threshold')


def check_found(ours, theirs, size):
    """Check that an export finds the boxes of mmdet in an image.

    A whole detector has a million values, so some are always close to a threshold. A flipped
    sign changes one product of hundreds. A few boxes may therefore differ a little, and
    suppression may keep another box. So 90 % of the boxes must be equal up to rounding, and
    95 % must be the same boxes.

    Args:
        ours: Result of the runner for an image.
        theirs: ``bboxes``, ``scores`` and ``labels`` of mmdet.
        size: Height and width of the image.
    """
    count = len(theirs['scores'])
    assert abs(len(ours['scores']) - count) <= count / 20
    for share, scores, pixels in ((0.9, 1e-4, 0.05), (0.95, 0.02, 0.02 * max(size))):
        assert _found(ours, theirs, scores, pixels) >= share * count
        assert _found(theirs, ours, scores, pixels) >= share * len(ours['scores'])


def _found(ours, theirs, scores, pixels):
    """Count the boxes of ``theirs`` that are in ``ours``, to ``scores`` and ``pixels``."""
    apart = np.abs(ours['bboxes'][None] - theirs['bboxes'][:, None]).max(-1)
    same = apart <= pixels
    same &= np.abs(ours['scores'][None] - theirs['scores'][:, None]) <= scores
    same &= ours['labels'][None] == theirs['labels'][:, None]
    return same.any(1).sum()
