"""Selective recomputation: store the outputs of large convolutions, recompute the rest.

A binary network has about a dozen element-wise operations on full-precision maps between
two convolutions. They are cheap to recompute but expensive to store. Convolutions are the
opposite, except those that sum few products.

In compiled code the flag of :func:`is_recomputing` is global in the process, because
``torch.compile`` does not support a thread-local flag. Two threads must therefore not train
compiled networks with recomputation at the same time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from .native_mode import is_native
from .once_differentiable import once_differentiable
from .operators import BINARY_CONV2D, BINARY_LINEAR
from .signs import is_composed

_CONVOLUTIONS = (BINARY_CONV2D, BINARY_LINEAR, torch.ops.aten.convolution.default)
#: An output value that sums so many products or fewer is cheaper to recompute than to store.
FEW_PRODUCTS = 256
#: A segment on the native kernels stores at most about so many maps of its input's size.
MAPS_OF_SEGMENT = 16

#: Whether compiled code runs both passes in one graph, without the flag of
#: :func:`is_recomputing`, and so updates running statistics twice.
_UPDATES_TWICE = torch.__version__ < '2.9'

#: Message about a second pass that would not repeat the first one.
_CHANGED = (
    'layers of a segment that is recomputed were changed between its forward and its backward '
    'pass, such as by train(), eval() or requires_grad_(False): call backward() first'
)

_recomputing = False


class _Thread(threading.local):
    """State of a thread. Another one may train a network at the same time.

    Attributes:
        recomputing: Flag of code that is not compiled.
        kept: Results of native steps, in the innermost segment that is recomputed.
    """

    recomputing = False
    kept: KeptResults | None = None


_thread = _Thread()


def is_recomputing() -> bool:
    """Return True while a forward runs a second time, for the backward pass.

    A layer that updates running statistics must do so in the first pass only. Also recognised is
    ``torch.utils.checkpoint``, which mmpretrain's Transformers use for ``with_cp``, and mmengine
    for ``activation_checkpointing``.
    """
    if torch.compiler.is_compiling():
        return _recomputing
    # a forward in the backward pass of autograd repeats an earlier one
    return _thread.recomputing or torch._C._current_graph_task_id() != -1


class _Flag:
    """Context that sets the flags of :func:`is_recomputing`, and restores them afterwards."""

    def __enter__(self) -> None:
        global _recomputing
        self.earlier, _recomputing = _recomputing, True
        if not torch.compiler.is_compiling():
            self.own, _thread.recomputing = _thread.recomputing, True

    def __exit__(self, *error: Any) -> None:
        global _recomputing
        _recomputing = self.earlier
        if not torch.compiler.is_compiling():
            _thread.recomputing = self.own


class _Recomputation(TorchDispatchMode):
    """Mode that wraps ``inner`` and sets the flag; ``torch.compile`` needs a mode."""

    def __init__(self, inner: TorchDispatchMode) -> None:
        super().__init__()
        self.inner, self.flag = inner, _Flag()

    def __enter__(self) -> _Recomputation:
        self.inner.__enter__()
        self.flag.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.flag.__exit__(*error)
        self.inner.__exit__(*error)


def is_kept(op: Any, args: Sequence[Any]) -> bool:
    """Return whether the output of an operator is stored, not computed a second time.

    Args:
        op: Overload of the operator.
        args: Arguments of the call.
    """
    return op in _CONVOLUTIONS and args[1].numel() > FEW_PRODUCTS * args[1].shape[0]


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    if is_kept(op, args):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _selective() -> tuple[Any, Any]:
    first, second = create_selective_checkpoint_contexts(_policy)
    return first, _Recomputation(second)


class KeptResults:
    """Results that a segment's native steps keep, in the order of their calls.

    These are bits and sums of signs of convolutions, and statistics of norms.

    Attributes:
        reads: Whether steps read what was kept. This is not :func:`is_recomputing`: a segment
            inside another runs its first pass again while the other one is recomputed.
    """

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.next = 0
        self.reads = False


class _Keeping:
    """Context in which native steps keep their results, or read those kept before.

    Afterwards those of the segment around it do so again.
    """

    def __init__(self, kept: KeptResults, reads: bool) -> None:
        self.kept, self.reads, self.flag = kept, reads, _Flag() if reads else None

    def __enter__(self) -> None:
        self.earlier, _thread.kept = _thread.kept, self.kept
        self.kept.next, self.kept.reads = 0, self.reads
        if self.flag is not None:
            self.flag.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.flag is not None:
            self.flag.__exit__(*error)
        _thread.kept = self.earlier


_Result = TypeVar('_Result')


def is_keeping() -> bool:
    """Return whether a segment runs whose native steps keep their results."""
    return _thread.kept is not None


def compute_once(compute: Callable[[], _Result]) -> _Result:
    """Return ``compute()`` and keep it; in a native recomputation, return what was kept.

    Args:
        compute: Function of a small result. Outside of recomputed segments nothing is kept.
    """
    if _thread.kept is not None and _thread.kept.reads:
        return cast(_Result, recall())
    result = compute()
    keep(result)
    return result


def keep(value: Any) -> None:
    """Keep a small value of a segment that will be recomputed, for :func:`recall`."""
    kept = _thread.kept
    if kept is not None and not kept.reads:
        kept.results.append(value)


def recall() -> Any:
    """Return what the first pass kept at this place of a recomputed segment; elsewhere None."""
    kept = _thread.kept
    if kept is None or not kept.reads:
        return None
    if kept.next == len(kept.results):
        raise RuntimeError(_CHANGED)
    kept.next += 1
    return kept.results[kept.next - 1]


def _whole() -> tuple[Any, Any]:
    if not is_native():
        return contextlib.nullcontext(), _Flag()
    kept = KeptResults()
    return _Keeping(kept, False), _Keeping(kept, True)


def keeps_convolutions(x: Tensor) -> bool:
    """Return whether recomputation of a function of ``x`` stores outputs of convolutions.

    It does not on a GPU, except in compiled code. There a convolution takes less time than the mode
    that finds the outputs to store: the mode runs Python code for every operator. Nor does it on
    the native kernels, which compute in float32 only: those of units keep their results
    themselves, see :func:`keep` and :func:`compute_once`.
    """
    if torch.compiler.is_compiling():
        return True
    return not (x.is_cuda or _runs_on_bits(x))


def _runs_on_bits(x: Tensor) -> bool:
    return is_native() and x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')


class _Segment(torch.autograd.Function):
    """Step ``function(x)`` that stores ``x``, and results that native steps keep.

    ``torch.utils.checkpoint`` runs Python code for every tensor that an operator saves, in both
    passes. Here nothing is saved in the first pass, and the second one is a pass like any other.
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], Tensor],
        modules: list[nn.Module],
        x: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.function, ctx.kept, ctx.random = function, KeptResults(), torch.get_rng_state()
        ctx.modules, ctx.modes = modules, _modes(modules)
        ctx.save_for_backward(x, *parameters)
        nothing = torch.autograd.graph.saved_tensors_hooks(lambda saved: None, _never)
        with torch.enable_grad(), nothing, _Keeping(ctx.kept, False):
            return function(_leaf(ctx, x)).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        frozen = any(not one.requires_grad for one in parameters)
        if frozen or _modes(ctx.modules) != ctx.modes:
            raise RuntimeError(_CHANGED)
        leaf = _leaf(ctx, x)
        with (
            torch.random.fork_rng(devices=()),
            torch.enable_grad(),
            # the first pass ran without it, but the backward pass may run inside of it
            torch.autocast('cpu', enabled=False),
            _Keeping(ctx.kept, True),
        ):
            torch.set_rng_state(ctx.random)
            y = ctx.function(leaf)
        inputs = [leaf, *parameters]
        needed = ctx.needs_input_grad[2:]
        wanted = [one for one, needs in zip(inputs, needed) if needs]
        with _without_hooks(parameters):
            found = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True))
        return None, None, *(next(found) if needs else None for needs in needed)


def _modes(modules: Iterable[nn.Module]) -> list[bool]:
    return [part.training for module in modules for part in module.modules()]


def _leaf(ctx: Any, x: Tensor) -> Tensor:
    return x.detach().requires_grad_(ctx.needs_input_grad[2])


@contextlib.contextmanager
def _without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Take the hooks of parameters away: the backward pass around runs them on the results."""
    hooked = [(one, one._backward_hooks) for one in parameters if one._backward_hooks]
    for one, _ in hooked:
        one._backward_hooks = None
    try:
        yield
    finally:
        for one, hooks in hooked:
            one._backward_hooks = hooks


def _never(saved: Any) -> Tensor:
    raise AssertionError('a tensor of the first pass was asked for')


def is_synced(module: nn.Module) -> bool:
    """Return whether a module has ``sync`` set and there are processes to share with."""
    return bool(getattr(module, 'sync', False)) and dist.is_available() and dist.is_initialized()


def recompute_segment(
    function: Callable[[Tensor], Tensor], x: Tensor, modules: Iterable[nn.Module]
) -> Tensor:
    """Run ``function(x)`` as :func:`recompute_elementwise`, faster on the native kernels.

    There a segment that would store less than its weights is not recomputed: with few pixels and
    many channels its time goes into the weights, and its maps need little memory. One with norms
    that share statistics among processes always is: such a norm waits for all processes each time
    it runs, and their maps can differ in size.

    Args:
        function: Function from one tensor to one tensor.
        x: Argument of the function.
        modules: Modules whose parameters it reads. It reads no other tensor that gets a gradient.

    Raises:
        RuntimeError: In the backward pass, if the mode of a module has changed since the forward
            pass, or a parameter is trained no more.
    """
    if is_composed() or not torch.is_grad_enabled() or not _runs_on_bits(x):
        return recompute_elementwise(function, x)
    modules = list(modules)
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    is_small = MAPS_OF_SEGMENT * x.numel() < sum(p.numel() for p in trained)
    if is_small and not any(is_synced(part) for module in modules for part in module.modules()):
        return function(x)
    return cast(Tensor, _Segment.apply(function, modules, x, *trained))


def recompute_elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run ``function(x)``; store only outputs of convolutions and binary linear layers.

    Of these, only outputs that sum more than ``FEW_PRODUCTS`` products are stored, see
    :func:`is_kept`; on the native kernels all, as integers of 16 bits; on a GPU nothing but ``x``,
    see :func:`keeps_convolutions`. The result and the gradients are those of ``function(x)``. All
    other operations run again in the backward pass.
    ``torch.compile`` before torch 2.9 chooses itself what to store.

    Args:
        function: Function from one tensor to one tensor.
        x: Argument of the function.
    """
    if _UPDATES_TWICE and torch.compiler.is_compiling():
        return function(x)
    contexts = _selective if keeps_convolutions(x) else _whole
    return checkpoint(function, x, use_reentrant=False, context_fn=contexts)
