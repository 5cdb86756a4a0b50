"""Bytes that a training step saves for the backward pass, and its peak of memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmesbnn import native
from mmesbnn.binary import recompute
from mmesbnn.binary.native_mode import bits_to_save
from mmesbnn.binary.recompute import is_kept

from .contenders import Training


class _Kept(TorchDispatchMode):
    """Outputs of the operators that recomputation keeps; no hook sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if is_kept(func, args):
            self.outputs.append(output)
        return output


@contextlib.contextmanager
def _kept_results() -> Iterator[Callable[[], list[Any]]]:
    """Find what recomputation on the native kernels keeps, which no hook sees either."""
    kept: list[Any] = []
    kind = recompute.KeptResults

    class Recorded(kind):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            kept.append(self)

    recompute.KeptResults = Recorded
    try:
        yield lambda: [step for one in kept for step in one.results if step is not None]
    finally:
        recompute.KeptResults = kind


def _tensors_of(result: Any) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):  # statistics of a norm
        return (result,)
    return (result.sums, *bits_to_save(result.signs, result.kernels))


def saved_bytes(training: Training) -> int:
    """Bytes that a forward pass saves for the backward pass, parameters and images aside."""
    known = {
        t.untyped_storage().data_ptr()
        for t in (*training.model.parameters(), *training.model.buffers(), training.x)
    }
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in known:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    outside = training.stores_outputs()
    recorder = _Kept() if outside else contextlib.nullcontext()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, recorder, _kept_results() as results:
        loss = training.forward()
    if outside:
        for output in recorder.outputs:
            keep(output)
    for result in results():
        for tensor in _tensors_of(result):
            keep(tensor)
    loss.backward()
    training.optimizer.zero_grad()
    return sum(t.untyped_storage().nbytes() for t in saved.values())


def _resident(name: str) -> int:
    text = Path('/proc/self/status').read_text()
    found = re.search(rf'{name}:\s+(\d+) kB', text)
    return 1024 * int(found[1]) if found else 0


def peak_bytes(training: Training) -> int | None:
    """Rise of the memory in use during a step; None where the system does not tell."""
    gc.collect()
    if training.device != 'cpu':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training.step()
        return torch.cuda.max_memory_allocated() - before
    try:
        native.release_memory()  # it would not be new
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # the peak is now what is in use
    except (OSError, AttributeError):
        return None
    before = _resident('VmRSS')
    training.step()
    return _resident('VmHWM') - before
