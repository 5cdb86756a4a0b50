"""Modes in which tools run a network, restored afterwards."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import nn

_lock = threading.Lock()
_inside = 0
_fused = True


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode without gradients; restore every module's mode afterwards.

    Fused attention kernels are off during this, because they hide their operators. Several
    threads can be inside at once, each with a model of its own.

    Args:
        model: Any module.
    """
    with eval_mode(model), _unfused_attention(), torch.no_grad():
        yield


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode; restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _unfused_attention() -> Iterator[None]:
    """Turn fused attention off until the last thread has left.

    The switch belongs to the process. If each thread restored what it had found, the thread
    that leaves last could restore the "off" of another.
    """
    global _inside, _fused
    with _lock:
        if not _inside:
            _fused = torch.backends.mha.get_fastpath_enabled()
        _inside += 1
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                torch.backends.mha.set_fastpath_enabled(_fused)
