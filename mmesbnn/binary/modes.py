"""Modes in which tools run a network, restored afterwards."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

import torch
from torch import nn

_lock = threading.Lock()
_inside = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode without gradients; restore every module's mode afterwards.

    Fused attention kernels and code of ``torch.compile`` are off during this, because they hide
    operators and modules; torch 2.5 cannot turn its compiled code off. Several threads can be
    inside at once, each with a model of its own.

    Args:
        model: Any module.
    """
    with eval_mode(model), _nothing_hidden(), torch.no_grad():
        yield


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode; restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        try:
            model.eval()
        except NotImplementedError:  # what torch.export made stays in the mode of its export
            for module, _ in modes:
                module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _nothing_hidden() -> Iterator[None]:
    """Turn fused attention and compiled code off until the last thread has left.

    The switches belong to the process. If each thread restored what it had found, the thread
    that leaves last could restore the "off" of another.
    """
    global _inside
    with _lock:
        if not _inside:
            fused = torch.backends.mha.get_fastpath_enabled()
            _restore.callback(torch.backends.mha.set_fastpath_enabled, fused)
            torch.backends.mha.set_fastpath_enabled(False)
            # importing it takes seconds, and before it nothing is compiled; new in torch 2.6
            if 'torch._dynamo' in sys.modules and hasattr(torch.compiler, 'set_stance'):
                _restore.enter_context(torch.compiler.set_stance('force_eager'))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _restore.close()
