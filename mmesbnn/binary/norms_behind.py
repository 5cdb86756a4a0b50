"""The batch norms behind drop-in layers, whose gains the copies of an output start with.

An :class:`ESConv2d` tiles its output and has nothing of its own for every copy. Its
copies differ by the affine of the batch norm that reads them, which is the network's.
A run of the network shows which norm that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .arguments import checked_layer
from .es_layers import ESConv2d, ESLinear
from .expansion import copy_signs
from .modes import inference

_Norms = list[_BatchNorm]


class _OutputReads(TorchFunctionMode):
    """Sees which modules compute with the outputs of ``layers``.

    Attributes:
        readers: For every layer that ran the modules that read an output of it.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = set(layers)
        self.readers: dict[nn.Module, list[nn.Module | None]] = {}
        self._outputs: dict[int, tuple[Tensor, nn.Module]] = {}
        self._running: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> _OutputReads:
        hooks = nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(
                lambda module, args: self._running.append(module)
            ),
            hooks.register_module_forward_hook(self._leave),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._running.pop()
        # of tokens (N, L, C) a batch norm would read the axis L
        if module in self.layers and isinstance(output, Tensor) and output.dim() in (2, 4):
            # kept, so that no other tensor gets its id
            self._outputs[id(output)] = (output, module)
            self.readers.setdefault(module, [])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, and note the outputs among its arguments."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(isinstance(x, Tensor) for x in tree_leaves(result)):
            for value in tree_leaves((args, kwargs)):
                _, layer = self._outputs.get(id(value), (None, None))
                if layer is not None:
                    self.readers[layer].append(self._running[-1] if self._running else None)
        return result


def norms_behind(
    model: nn.Module, layers: Sequence[nn.Module], run: Callable[[], object]
) -> dict[nn.Module, _Norms]:
    """Find the batch norms that read the outputs of ``layers``, and nothing else does.

    Args:
        model: The network. It is in eval mode during the run.
        layers: Convolutions and linear layers of it, drop-in layers or others.
        run: Runs the network once.

    Returns:
        For every layer whose outputs are read by batch norms alone those norms; more
        than one if the layer runs several times. Norms that read several layers, or
        that have no affine, are left out, and their layers.
    """
    reads = _OutputReads(layers)
    with inference(model), reads:
        run()
    found: dict[nn.Module, _Norms] = {}
    for layer, readers in reads.readers.items():
        norms = [x for x in dict.fromkeys(readers) if isinstance(x, _BatchNorm) and x.affine]
        if norms and len(norms) == len(set(readers)):
            found[layer] = norms
    owners = [norm for norms in found.values() for norm in norms]
    return {
        layer: norms
        for layer, norms in found.items()
        if all(owners.count(norm) == 1 for norm in norms)
    }


@torch.no_grad()
def flip_channels(norms: _Norms, signs: Tensor) -> None:
    """Let ``norms`` give for ``signs * x`` what they gave for ``x``.

    ``g (x - m) / s + b = (g sign) (sign x - sign m) / s + b``, for signs of +-1.

    Args:
        norms: Batch norms of ``C`` channels.
        signs: ``(C,)``.
    """
    for norm in norms:
        norm.weight.mul_(signs.to(norm.weight))
        if norm.running_mean is not None:
            norm.running_mean.mul_(signs.to(norm.running_mean))


def _is_fresh(norm: _BatchNorm) -> bool:
    """Whether all gains are one number, as initialisers leave them, but not 0."""
    return bool((norm.weight == norm.weight[0]).all() and norm.weight[0] != 0)


@checked_layer()
def start_copies(
    model: nn.Module,
    copy_init: str,
    run: Callable[[], object],
    draw: Callable[[int, int, str], Tensor] = copy_signs,
) -> Mapping[str, bool]:
    """Let the copies of drop-in layers of a new network start with gains of +-1.

    The gains of the batch norms behind every :class:`ESConv2d` and :class:`ESLinear`
    with ``tau > 1`` are multiplied by :func:`~mmesbnn.binary.expansion.copy_signs`::

        net = torch.nn.Sequential(
            ESConv2d(16, 32, 3, tau=2), torch.nn.BatchNorm2d(32), torch.nn.ReLU())
        start_copies(net, 'balanced', run=lambda: net(torch.randn(1, 16, 8, 8)))

    Gains that differ from each other are trained or loaded ones: they stay.

    Args:
        model: The network. Its layers run in eval mode.
        copy_init: ``'signs'`` or ``'balanced'``; with ``'alike'`` nothing changes.
        run: Runs the network once, to see which norm reads which layer.
        draw: Gives the signs; for processes that must agree. Default
            :func:`~mmesbnn.binary.expansion.copy_signs`.

    Returns:
        For every drop-in layer with ``tau > 1``, by name, whether its copies start
        with gains of +-1 now.

    Raises:
        ValueError: If ``copy_init`` is not one of the allowed values.
    """
    layers = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, (ESConv2d, ESLinear)) and module.expansion.tau > 1
    }
    started = dict.fromkeys(layers.values(), False)
    if copy_init == 'alike' or not layers:
        return started
    for layer, norms in norms_behind(model, list(layers), run).items():
        if all(map(_is_fresh, norms)):
            tau, features = layer.expansion.tau, norms[0].num_features
            flip_channels(norms, draw(features // tau, tau, copy_init))
            started[layers[layer]] = True
    return started
