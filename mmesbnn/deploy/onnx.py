"""ONNX for other engines: plain float operators, binary weights as signs.

ONNX has no binary convolution, so this is neither small nor fast by itself; it is the
exact network for whatever reads ONNX.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..analysis.operators import inference
from ..binary import functional
from ..binary.signs import HardTanhSign, IdentitySign, QuadraticSign
from ..binary.weights import FixedWeight, RealWeight
from ..optional import require
from ..whole_files import whole_file
from .manifest import ExportError
from .output_agreement import OutputAgreement, compare_all
from .packed_file import binary_layers
from .packing import PackError, why_not_binary

#: Signs that become one comparison.
_SIGNS = (HardTanhSign, IdentitySign, QuadraticSign)


class PlainSign(nn.Module):
    """``1 if x > 0 else -1``, in ONNX a ``Greater`` and a ``Where``."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the sign of ``x``."""
        return torch.where(x > 0, 1.0, -1.0)


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Let binary arithmetic run as torch's own operators, which every exporter knows.

    Not for several threads at a time.
    """
    plain = {
        '_binary_conv2d': functional.plain_conv2d,
        '_binary_linear': F.linear,
        '_binary_matmul': torch.matmul,
    }
    ours = {name: getattr(functional, name) for name in plain}
    try:
        for name, operator in plain.items():
            setattr(functional, name, operator)
        yield
    finally:
        for name, operator in ours.items():
            setattr(functional, name, operator)


def with_constant_weights(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose binary weights are effective ones, signs comparisons.

    Raises:
        PackError: If a weight is not binary; layers whose ``weight_binarizer`` is
            ``'real'`` are meant not to be.
    """
    for name, layer in binary_layers(model).items():
        reason = why_not_binary(layer)
        if reason and not isinstance(layer.weight_binarizer, RealWeight):
            raise PackError(f'cannot export {name}: {reason}')
    model = copy.deepcopy(model).eval()
    for layer in binary_layers(model).values():
        weight = layer.effective_weight().detach()
        layer.weight_binarizer = FixedWeight()
        layer.weight = nn.Parameter(weight, requires_grad=False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _SIGNS) and child.zero == -1:
                setattr(module, name, PlainSign())
    return model.requires_grad_(False)


class _Flat(nn.Module):
    """Gives the tensors in a network's output one after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        return tuple(tree_leaves(self.network(*inputs)))


def _swap_last_axes(g: Any, x: Any) -> Any:
    """``x.mT``, which torch's exporter does not know."""
    order = list(range(x.type().dim()))
    order[-2:] = order[:-3:-1]
    return g.op('Transpose', x, perm_i=order)


def _export(
    network: nn.Module, path: Path, example: tuple[Tensor, ...],
    inputs: Sequence[str], outputs: Sequence[str], dynamic_batch: bool, opset: int,
) -> None:  # fmt: skip
    axes = {name: {0: 'batch'} for name in (*inputs, *outputs)} if dynamic_batch else {}
    torch.onnx.register_custom_op_symbolic('aten::mT', _swap_last_axes, 9)
    with warnings.catch_warnings():
        # the exporter that needs nothing but onnx calls itself deprecated
        warnings.simplefilter('ignore')
        try:
            torch.onnx.export(
                network, example, path, dynamo=False, opset_version=opset,
                input_names=list(inputs), output_names=list(outputs), dynamic_axes=axes,
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f'the network cannot become ONNX: {reason}') from error


def _outputs(
    session: Any, network: nn.Module, examples: Sequence[tuple[Tensor, ...]],
    inputs: Sequence[str],
) -> tuple[list[Any], list[Any]]:  # fmt: skip
    """Outputs of ONNX Runtime and of torch, example by example."""
    ours, theirs = [], []
    for example in examples:
        feed = {name: x.numpy() for name, x in zip(inputs, example)}
        ours.append(session.run(None, feed))
        theirs.append([y.detach().numpy() for y in network(*example)])
    return ours, theirs


def export_onnx(
    network: nn.Module, path: str | os.PathLike, examples: Sequence[tuple[Tensor, ...]],
    *, input_names: Sequence[str] = ('images',),
    output_names: Sequence[str] | None = None, dynamic_batch: bool = True,
    opset: int = 17,
) -> list[OutputAgreement]:  # fmt: skip
    """Write a trained network as ONNX, and compare it with torch.

    Binary weights become constants ``-a`` and ``+a``, with ``a = 1`` where the family
    has no scale; signs become ``Where(x > 0, 1, -1)``.

    Args:
        network: What takes tensors and gives tensors.
        path: The file to write; one that exists is replaced.
        examples: Inputs, a tuple each, batch first. Outputs are compared on them, so
            take real ones. The first decides on all sizes but the batch.
        input_names: Names of the inputs. Default ``('images',)``.
        output_names: Names of the outputs. Default: ``output_0`` and so on.
        dynamic_batch: Whether any batch size will do. Default True.
        opset: Version of ONNX's operators. Default 17.

    Returns:
        How far ONNX Runtime is from torch, output by output.

    Raises:
        PackError: If a layer's weights are not binary yet; it is named.
        ImportError: If onnx or onnxruntime is not installed.
        ExportError: If the outputs are not torch's, or the network
            cannot be exported; nothing is written.
        OSError: If the file cannot be written.
    """
    require('onnx', 'deploy', 'ONNX export')
    runtime = require('onnxruntime', 'deploy', 'ONNX export')
    if dynamic_batch and getattr(network, 'one_image', False):
        raise ExportError(
            'a two-stage detector is exported for one image at a time: pass '
            'dynamic_batch=False (--fixed-batch)'
        )
    path = Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise FileNotFoundError(f'{path}: name a file in a folder that exists')
    unordered = getattr(network, 'unordered', False)
    network = _Flat(with_constant_weights(network))
    with whole_file(path) as partial:
        partial.touch()  # so that a missing right is an OSError
        with inference(network):
            names = output_names or _numbered(network(*examples[0]))
            with plain_operators():
                _export(
                    network, partial, examples[0], input_names, names, dynamic_batch,
                    opset,
                )  # fmt: skip
            session = runtime.InferenceSession(
                partial, providers=['CPUExecutionProvider']
            )
            ours, theirs = _outputs(session, network, examples, input_names)
        agreements = compare_all('ONNX Runtime', names, ours, theirs, unordered)
    return agreements


def _numbered(outputs: Sequence[Tensor]) -> list[str]:
    return [f'output_{i}' for i in range(len(outputs))]
