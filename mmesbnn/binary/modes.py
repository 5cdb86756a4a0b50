"""Modes in which tools run a network, restored afterwards."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import torch
from torch import nn


class _Shared:
    """Context that changes a setting of the process until the last thread has left.

    If each thread restored what it had found, the thread that leaves last could restore the
    change of another.

    Args:
        change: Function that changes the setting, and adds to the stack what restores it.
    """

    def __init__(self, change: Callable[[contextlib.ExitStack], None]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._restore = contextlib.ExitStack()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._change(self._restore)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode without gradients; restore every module's mode afterwards.

    Fused attention kernels and code of ``torch.compile`` are off during this, because they hide
    operators and modules; torch 2.5 cannot turn its compiled code off. Several threads can be
    inside at once, each with a model of its own.

    Args:
        model: Any module.
    """
    with eval_mode(model), _nothing_hidden, torch.no_grad():
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
def plain_defaults() -> Iterator[None]:
    """Make new tensors on the CPU and in float32, whatever torch's defaults are."""
    with torch.device('cpu'), _float32:
        yield


def _show_all(restore: contextlib.ExitStack) -> None:
    """Turn fused attention and compiled code off."""
    fused = torch.backends.mha.get_fastpath_enabled()
    restore.callback(torch.backends.mha.set_fastpath_enabled, fused)
    torch.backends.mha.set_fastpath_enabled(False)
    # importing it takes seconds, and before it nothing is compiled; new in torch 2.6
    if 'torch._dynamo' in sys.modules and hasattr(torch.compiler, 'set_stance'):
        restore.enter_context(torch.compiler.set_stance('force_eager'))


def _use_float32(restore: contextlib.ExitStack) -> None:
    """Make float32 the default dtype."""
    restore.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float32)


_nothing_hidden, _float32 = _Shared(_show_all), _Shared(_use_float32)
