"""Stage of a backbone: blocks in a row, run as they are, recomputed, or compiled one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...binary import binary_layers
from ...binary.compiled_parts import Call, parts_called_by
from ...binary.recompute import recompute_segment

#: Binary layers that are recomputed together. More of them mean fewer stored inputs, but
#: more memory during the recomputation.
LAYERS_PER_SEGMENT = 4
#: Graphs of one function that ``torch.compile`` keeps before it gives up. Torch allows 8; kinds
#: of blocks, training and evaluation, and temperatures of weights all have graphs of their own.
MOST_GRAPHS = 256

#: Name of a backend of ``torch.compile``, or the backend.
Backend = str | Callable[..., Any]


def _segments(blocks: Sequence[nn.Module]) -> list[slice]:
    """Divide ``blocks`` into runs of about ``LAYERS_PER_SEGMENT`` binary layers."""
    bounds, layers = [0], 0
    for i, block in enumerate(blocks):
        layers += len(binary_layers(block))
        if layers >= LAYERS_PER_SEGMENT or i == len(blocks) - 1:
            bounds.append(i + 1)
            layers = 0
    return [slice(*pair) for pair in pairwise(bounds)]


def _in_turn(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _run(blocks: Sequence[nn.Module], x: Tensor, recomputes: bool) -> Tensor:
    if recomputes and x.requires_grad:
        return recompute_segment(functools.partial(_in_turn, blocks), x, blocks)
    return _in_turn(blocks, x)


def _allow_graphs(count: int) -> None:
    settings = torch._dynamo.config
    # the name before torch 2.6
    name = 'recompile_limit' if hasattr(settings, 'recompile_limit') else 'cache_size_limit'
    setattr(settings, name, max(count, getattr(settings, name)))


def _call_part(forward: Call, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


@functools.cache
def _compiled(run: Call, backend: Backend, mode: str | None) -> Call:
    """Return ``run`` compiled; equal blocks or parts of all stages share its graphs."""
    _allow_graphs(MOST_GRAPHS)
    # Else torch takes the widths of the second kind of block for variables, and compiles a graph
    # of any width.
    return torch.compile(run, backend=backend, mode=mode, dynamic=False)


class Stage(nn.Sequential):
    """Sequence of blocks.

    Args:
        *blocks: Blocks, in order.
        with_cp: Whether to store only the input of every few blocks for the backward pass,
            and outputs of large convolutions as :func:`recompute_elementwise` does, and
            recompute the rest. Default False.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp
        self._segments = _segments(list(self))
        self._compiler: tuple[Backend, str | None] | None = None

    def compile_blocks(self, backend: Backend = 'inductor', mode: str | None = None) -> None:
        """Run compiled blocks from now on.

        ``torch.compile`` makes one graph for each kind of block, not one for the whole network,
        so it takes less time the more blocks are alike. Of a Transformer block it compiles the
        binary linear layers one by one, because they are alike. With ``with_cp`` a graph holds
        the blocks that are recomputed together.

        Args:
            backend: As that of ``torch.compile``. Default ``'inductor'``.
            mode: As that of ``torch.compile``. Default None.

        Raises:
            RuntimeError: If torch has no such backend or mode.
        """
        _compiled(_run, backend, mode)  # an error comes before the first batch
        self._compiler = (backend, mode)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of the last block for ``x``."""
        blocks = list(self)
        for segment in self._divided(blocks):
            x = self._run_segment(blocks[segment], x)
        return x

    def _run_segment(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        # torch.jit.trace, by which exports read a network, refuses compiled functions
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined]
        if self._compiler is None or traced or torch.compiler.is_compiling():
            return _run(blocks, x, self.with_cp)
        recomputed = self.with_cp and x.requires_grad
        if not recomputed and all(getattr(b, 'compiled_in_parts', False) for b in blocks):
            with parts_called_by(_compiled(_call_part, *self._compiler)):
                return _in_turn(blocks, x)
        return cast(Tensor, _compiled(_run, *self._compiler)(blocks, x, self.with_cp))

    def _divided(self, blocks: Sequence[nn.Module]) -> list[slice]:
        """Return the blocks that run together, also if blocks were added or removed."""
        if not self.with_cp:
            return [slice(i, i + 1) for i in range(len(blocks))]
        if sum(part.stop - part.start for part in self._segments) != len(blocks):
            self._segments = _segments(blocks)
        return self._segments
