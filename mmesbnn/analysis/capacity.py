"""Use of the capacity of binary layers, measured on data.

With ES an output entry has ``C_i tau k_h k_w + 1`` possible values, because it sums more
signs. These signs are copies, so the gain depends on the differences between copies.
Three numbers describe the signs that a layer reads, and its outputs:

- *copy correlation*: similarity of the copies of a channel;
- *effective rank*: number of independent channels with the same information;
- *values*: number of different values that an output entry takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..binary import BinaryLayer, Expansion, binary_layers
from ..binary.arguments import MODULE
from ..binary.forms import input_form
from ..binary.modes import inference
from ..checks import checked, flag, positive_int, procedure
from .operators import layer_name
from .report import representation_capacity

#: Number of pixels or tokens of a layer that are measured.
POSITIONS = 4096

#: Channels with a smaller variance are constant. It is that of one -1 in 2^25 signs.
_CONSTANT = 2**-23


def correlations(x: Tensor) -> Tensor:
    """Compute the correlation matrix of channels.

    ``r_ij = cov(x_i, x_j) / (s_i s_j)``. Constant channels have 0, on the diagonal too.

    Args:
        x: ``(C, n)``, channels and their values.

    Returns:
        Tensor ``(C, C)``.
    """
    x = x - x.mean(1, keepdim=True)
    norm = x.square().mean(1, keepdim=True).sqrt()
    x = torch.where(norm > _CONSTANT**0.5, x / norm.clamp(min=_CONSTANT**0.5), 0.0)
    return x @ x.T / x.shape[1]


def effective_rank(matrix: Tensor) -> float:
    """Compute the participation ratio of the eigenvalues of a correlation matrix.

    ``(sum_i l_i)^2 / sum_i l_i^2 = tr(R)^2 / sum_ij r_ij^2``. It is ``C`` for ``C``
    uncorrelated channels, 1 if all channels are equal or negated, ``C / m`` if each
    occurs ``m`` times, and 0 if all are constant. Independent channels have
    ``C / (1 + C / n)`` with ``n`` samples.

    Args:
        matrix: ``(C, C)``, as :func:`correlations` gives it.
    """
    total = matrix.diagonal().sum()
    return float(total.square() / matrix.square().sum()) if total > 0 else 0.0


def copy_correlation(matrix: Tensor, copies: int) -> float | None:
    """Compute the mean magnitude of the correlation between two copies of a channel.

    ``mean |r_ij|`` over all pairs of channels ``i != j`` with ``i = j mod C / copies``.
    Pairs with a constant channel are left out. The value is 1 if copies are equal or
    negated: one of them would be enough for the next binary layer. Independent copies
    have about ``sqrt(2 / (pi n))`` with ``n`` samples.

    Args:
        matrix: ``(C, C)``, as :func:`correlations` gives it.
        copies: Number of copies of every channel.

    Returns:
        The mean; None if there is no such pair.

    Raises:
        ValueError: If ``copies`` does not divide ``C``.
    """
    if copies < 1 or len(matrix) % copies:
        raise ValueError(f'copies={copies} does not divide {len(matrix)} channels')
    blocks = matrix.unflatten(1, (copies, -1)).unflatten(0, (copies, -1))
    pairs = blocks.diagonal(dim1=1, dim2=3)  # (copies, copies, C / copies)
    varies = matrix.diagonal().unflatten(0, (copies, -1)) > 0
    both = varies.unsqueeze(0) & varies.unsqueeze(1)
    both &= ~torch.eye(copies, dtype=torch.bool, device=both.device).unsqueeze(2)
    return float(pairs[both].abs().mean()) if both.any() else None


def values_taken(y: Tensor, magnitude: Tensor) -> float:
    """Count the different values of every output channel, and return the mean.

    Args:
        y: ``(K, n)``, outputs of a binary layer without bias: ``magnitude`` times
            integers.
        magnitude: ``(K,)``, the magnitude of the kernels' weights.
    """
    numbers = (y / magnitude.unsqueeze(1)).round().sort(1).values
    return float((numbers.diff(dim=1) != 0).sum(1).double().mean()) + 1


@dataclass(frozen=True)
class LayerCapacity:
    """Use of the capacity of a binary layer.

    Attributes:
        name: Name of the layer.
        channels: Channels of its input, ``C_i tau g``.
        copies: Copies of every channel in its input, ``tau^2 g``.
        possible: Number of possible values of an output entry, see
            :func:`~mmesbnn.analysis.representation_capacity`.
        values: Number of values that an output entry takes on the data, mean over output
            channels. It cannot exceed the number of positions. At a border that is padded
            with zeros an odd number of products may be missing, so there can be other values
            than those of ``possible``. None if the weights of the
            layer are not binary, or its inputs have several bits.
        rank: Effective rank of the signs of its input, see :func:`effective_rank`.
        copy_correlation: See :func:`copy_correlation`. None if there are no copies.
    """

    name: str
    channels: int
    copies: int
    possible: int
    values: float | None
    rank: float
    copy_correlation: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes, for JSON."""
        return dataclasses.asdict(self)


def _columns(x: Tensor, positions: int, is_map: bool) -> Tensor:
    """Return at most ``positions`` evenly spaced pixels or tokens of ``x``, ``(C, n)``."""
    x = (x.transpose(0, 1) if is_map else x.movedim(-1, 0)).flatten(1)
    count = x.shape[1]
    if count > positions:
        x = x[:, torch.arange(positions, device=x.device) * count // positions]
    return x.float()


def _copies(layer: BinaryLayer, channels: int) -> int:
    """Return the number of copies of every channel in the input of ``layer``."""
    expansion: Expansion = getattr(layer, 'expansion', Expansion())
    # an input width that tau does not divide comes from the tiling of the layer's module
    return expansion.copies if channels % expansion.copies == 0 else expansion.factor


def _measure(name: str, layer: BinaryLayer, x: Tensor, y: Tensor, positions: int) -> LayerCapacity:
    is_map = isinstance(layer, nn.Conv2d)
    signs: Any = layer.sign
    form, read = input_form(signs), signs(x)
    matrix = correlations(_columns(read, positions, is_map))
    weight = layer.effective_weight().flatten(1)
    values = None
    # sums of other inputs are not multiples of the weight's magnitude
    if layer.why_not_binary() is None and torch.equal(read, read.round()) and y.numel():
        columns = _columns(y, positions, is_map)
        if isinstance(layer.bias, Tensor):
            columns = columns - layer.bias.unsqueeze(1)
        values = values_taken(columns, weight.abs().amax(1).clamp(min=1e-30))
    copies = _copies(layer, len(matrix))
    return LayerCapacity(
        name=name,
        channels=len(matrix),
        copies=copies,
        possible=representation_capacity(weight.shape[1], form.bits, form.low),
        values=values,
        rank=effective_rank(matrix),
        copy_correlation=copy_correlation(matrix, copies),
    )


@contextlib.contextmanager
def _own_statistics(model: nn.Module) -> Iterator[None]:
    """Set ``model`` to eval mode except batch norms in training mode, and restore it."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    with inference(model):
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)


@checked(model=MODULE, run=procedure, positions=positive_int, batch_statistics=flag)
def measure_capacity(
    model: nn.Module,
    run: Callable[[], object],
    positions: int = POSITIONS,
    batch_statistics: bool = False,
) -> list[LayerCapacity]:
    """Measure how the binary layers of ``model`` use their capacity.

    The network runs in eval mode without gradients. Its modes and buffers do not change. A
    layer that runs several times is measured at its first run::

        found = measure_capacity(model, lambda: model(images))

    The channels ``c``, ``c + C / copies``, ``c + 2 C / copies``, ... count as copies: an
    ES unit of the same width writes its copies there. Some of these channels are not
    copies behind the stem, which tiles only ``tau g`` times, and behind a block that
    doubles the width with two units side by side.

    Args:
        model: Any module.
        run: Function that runs the model once on the data.
        positions: Number of pixels or tokens of a layer that are measured, evenly spaced
            over the batch. Use several times the number of channels of the widest layer:
            with fewer, effective ranks are too small. The cost per layer is
            ``positions C^2`` multiplications. Default 4096.
        batch_statistics: Whether batch norms that are in training mode normalise with the
            statistics of the data, as in training. At the start of a training the running
            statistics do not fit yet. Default False.

    Returns:
        One entry per binary layer, in the order of their runs.

    Raises:
        ValueError: If no binary layer of the model runs.
    """
    found: dict[str, LayerCapacity] = {}
    hooks = []

    def watch(name: str, layer: BinaryLayer) -> None:
        def look(_: nn.Module, args: Sequence[Tensor], kwargs: Any, y: Tensor) -> None:
            if name not in found:
                x = args[0] if args else kwargs['input']
                found[name] = _measure(name, layer, x, y, positions)

        hooks.append(layer.register_forward_hook(look, with_kwargs=True))

    for name, layer in binary_layers(model).items():
        watch(layer_name(name, layer), layer)
    try:
        with _own_statistics(model) if batch_statistics else inference(model):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError(f'{type(model).__name__} runs no binary layer')
    return list(found.values())
