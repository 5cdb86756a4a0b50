"""Search for the batch norms that read drop-in layers, and initialisation of their gains.

An :class:`ESConv2d` tiles its output and has no parameters of its own for each copy. The
copies differ by the affine of the network's batch norm that reads them. A run of the network
finds this norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from ..checks import function, procedure
from .arguments import MODULE, checked_layer
from .es_layers import ESConv2d, ESLinear
from .expansion import copy_signs
from .modes import inference
from .trees import tensors_in, tensors_inside

_Norms = list[_BatchNorm]


class _OutputReads(TorchFunctionMode):
    """Mode that finds, during a run, the modules that read the outputs of ``layers``.

    Attributes:
        readers: Maps every layer that ran to the modules that read its outputs.
        reads_others: Ids of the gains of batch norms that read something else.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = set(layers)
        self.readers: dict[nn.Module, list[nn.Module | None]] = {}
        self.reads_others: set[int] = set()
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
        if isinstance(module, _BatchNorm) and not (args and id(args[0]) in self._outputs):
            self.reads_others.add(id(module.weight))  # or an input given by keyword, unseen here
        # for tokens (N, L, C) a batch norm would normalize the axis L
        if module in self.layers and isinstance(output, Tensor) and output.dim() in (2, 4):
            # the output is kept, so that no other tensor gets its id
            self._outputs[id(output)] = (output, module)
            self.readers.setdefault(module, [])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` and record the watched outputs among its arguments."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if tensors_in(result):
            reader = self._running[-1] if self._running else None
            self.note(tensors_in((args, kwargs)), reader)
        return result

    def note(self, values: Sequence[Tensor], reader: nn.Module | None) -> None:
        """Note that ``reader`` reads the watched outputs among ``values``; None is no module."""
        for value in values:
            _, layer = self._outputs.get(id(value), (None, None))
            if layer is not None:
                self.readers[layer].append(reader)


def norms_behind(
    model: nn.Module, layers: Sequence[nn.Module], run: Callable[[], object]
) -> dict[nn.Module, _Norms]:
    """Find the layers whose outputs only batch norms read, and these norms.

    Args:
        model: Network. It is in eval mode during the run.
        layers: Convolutions and linear layers of the network, drop-in layers or others.
        run: Function that runs the network once, and returns what the network returns.

    Returns:
        Mapping from each such layer to its norms. A layer that runs several times can have
        several norms. A layer is left out if one of its norms also reads something else, shares
        its gains with another norm, or has no affine.
    """
    reads = _OutputReads(layers)
    with inference(model), reads:
        result = run()
    reads.note(tensors_inside(result), None)  # the caller reads them, too
    found: dict[nn.Module, _Norms] = {}
    for layer, readers in reads.readers.items():
        norms = [x for x in dict.fromkeys(readers) if isinstance(x, _BatchNorm) and x.affine]
        if norms and len(norms) == len(set(readers)):
            found[layer] = norms
    gains = [id(norm.weight) for norms in found.values() for norm in norms]
    alone = {x for x in gains if gains.count(x) == 1} - reads.reads_others
    return {
        layer: norms
        for layer, norms in found.items()
        if all(id(norm.weight) in alone for norm in norms)
    }


@torch.no_grad()
def flip_channels(norms: _Norms, signs: Tensor) -> None:
    """Change ``norms`` so that their result for ``signs * x`` is the old result for ``x``.

    ``g (x - m) / s + b = (g sign) (sign x - sign m) / s + b``, for signs of +-1.

    Args:
        norms: Batch norms of ``C`` channels; changed in place.
        signs: Signs ``(C,)``.
    """
    for norm in norms:
        norm.weight.mul_(signs.to(norm.weight))
        if norm.running_mean is not None:
            norm.running_mean.mul_(signs.to(norm.running_mean))


def _is_fresh(norm: _BatchNorm) -> bool:
    """Return True if all gains are equal, as after initialisation, and not 0."""
    return bool((norm.weight == norm.weight[0]).all() and norm.weight[0] != 0)


@checked_layer(model=MODULE, run=procedure, draw=function)
def start_copies(
    model: nn.Module,
    copy_init: str,
    run: Callable[[], object],
    draw: Callable[[int, int, str], Tensor] = copy_signs,
) -> Mapping[str, bool]:
    """Set the initial gains of the copies of drop-in layers to +-1, in a new network.

    The gains of the batch norm that reads an :class:`ESConv2d` or :class:`ESLinear` with
    ``tau > 1`` are multiplied by :func:`~mmesbnn.binary.expansion.copy_signs`::

        net = torch.nn.Sequential(
            ESConv2d(16, 32, 3, tau=2), torch.nn.BatchNorm2d(32), torch.nn.ReLU())
        start_copies(net, 'balanced', run=lambda: net(torch.randn(1, 16, 8, 8)))

    Gains that differ from each other were trained or loaded, so they do not change.

    Args:
        model: Network. Its layers run in eval mode.
        copy_init: ``'signs'`` or ``'balanced'``; with ``'alike'`` nothing changes.
        run: Function that runs the network once, to find the norm that reads each layer.
        draw: Function that returns the signs. Processes that must agree give their own.
            Default :func:`~mmesbnn.binary.expansion.copy_signs`.

    Returns:
        Mapping from the name of each drop-in layer with ``tau > 1`` to True if the gains
        of its copies are now +-1.

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
    found = norms_behind(model, list(layers), run)
    for layer in layers:
        norms = found.get(layer, [])
        if norms and all(map(_is_fresh, norms)):
            tau, features = layer.expansion.tau, norms[0].num_features
            flip_channels(norms, draw(features // tau, tau, copy_init))
            started[layers[layer]] = True
    return started
