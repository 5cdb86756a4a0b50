"""Export to ONNX for other engines: float operators, binary weights as signs.

ONNX has no binary convolution, so the file is neither small nor fast by itself. It holds
the exact network for programs that read ONNX.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper
from torch.utils._pytree import tree_leaves

from ..binary.arguments import MODULE
from ..binary.layers import binary_layers
from ..binary.modes import inference, plain_defaults
from ..binary.weights import FixedWeight, RealWeight
from ..checks import checked, optional
from ..errors import sentence
from ..optional import require
from ..whole_files import check_file, whole_file
from .first_run import dtypes_named
from .onnx_arguments import EXAMPLES, NAMES, OPSET, check_examples, feed_of, names_of
from .output_agreement import OutputAgreement, compare_all, compare_runs
from .packed.file import PackError, why_not_settable
from .runtime.manifest import ExportError
from .tasks.detector_graphs import has_unordered_rows, takes_one_image
from .tasks.finite_weights import check_weights


def _binary_conv2d(
    g: Any,
    x: Any,
    weight: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    pad_value: Any,
) -> Any:
    """Write ``mmesbnn::binary_conv2d`` as ``Conv``, after a ``Pad`` if it pads with +-1."""
    strides, pads, dilations = (
        symbolic_helper._parse_arg(value, 'is') for value in (stride, padding, dilation)
    )
    value = symbolic_helper._parse_arg(pad_value, 'f')
    pads = [*pads, *pads]
    if value:
        axes = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        sizes = g.op('Constant', value_t=torch.tensor(axes))
        # Pad takes a value of the input's type only
        dtype = torch.onnx.JitScalarType.from_value(x).dtype()  # type: ignore[attr-defined]
        x = g.op('Pad', x, sizes, g.op('Constant', value_t=torch.tensor(value, dtype=dtype)))
        pads = [0, 0, 0, 0]
    return g.op(
        'Conv',
        x,
        weight,
        kernel_shape_i=weight.type().sizes()[2:],
        strides_i=strides,
        pads_i=pads,
        dilations_i=dilations,
        group_i=symbolic_helper._parse_arg(groups, 'i'),
    )


def _binary_linear(g: Any, x: Any, weight: Any) -> Any:
    return g.op('MatMul', x, g.op('Transpose', weight, perm_i=[1, 0]))


def _binary_matmul(g: Any, a: Any, b: Any) -> Any:
    return g.op('MatMul', a, b)


def _threshold(g: Any, x: Any, threshold: Any, value: Any) -> Any:
    """Write ``x if x > threshold else value``; torch's exporter knows relu only."""
    return g.op('Where', g.op('Greater', x, threshold), x, value)


def _softplus(g: Any, x: Any, beta: Any, threshold: Any) -> Any:
    """Write ``log(1 + exp(beta x)) / beta``; torch's exporter leaves out the threshold."""
    beta, threshold = (symbolic_helper._parse_arg(number, 'f') for number in (beta, threshold))
    dtype = torch.onnx.JitScalarType.from_value(x).dtype()  # type: ignore[attr-defined]

    def constant(number: float) -> Any:
        return g.op('Constant', value_t=torch.tensor(number, dtype=dtype))

    inner = x if beta == 1 else g.op('Mul', x, constant(beta))
    smooth = g.op('Softplus', inner)
    smooth = smooth if beta == 1 else g.op('Div', smooth, constant(beta))
    if threshold >= 20:  # beyond it float32 holds no difference
        return smooth
    return g.op('Where', g.op('Greater', inner, constant(threshold)), x, smooth)


def _swap_last_axes(g: Any, x: Any) -> Any:
    """Write ``x.mT``, which torch's exporter does not know."""
    order = list(range(x.type().dim()))
    order[-2:] = order[:-3:-1]
    return g.op('Transpose', x, perm_i=order)


#: Number of examples in the batch with which an open batch is tested.
BATCHED = 4

#: torch's exporter keeps its state in globals.
_EXPORTER = threading.Lock()

#: The function that writes an operator in ONNX; those of ``aten`` are more general than the
#: exporter's own.
_SYMBOLICS: dict[str, Callable[..., Any]] = {
    'mmesbnn::binary_conv2d': _binary_conv2d,
    'mmesbnn::binary_linear': _binary_linear,
    'mmesbnn::binary_matmul': _binary_matmul,
    'aten::softplus': _softplus,
    'aten::threshold': _threshold,
    'aten::mT': _swap_last_axes,
}


def with_constant_weights(model: nn.Module) -> nn.Module:
    """Copy a model to eval mode, with constant effective weights in its binary layers.

    Raises:
        PackError: If a weight is computed from other tensors, or is not binary, except in
            layers whose ``weight_binarizer`` is ``'real'``.
    """
    for name, layer in binary_layers(model, every_name=True).items():
        reason = why_not_settable(layer)
        reason = reason or (None if layer.has_real_weights else layer.why_not_binary())
        if reason:
            raise PackError(f'cannot export {name}: {reason}')
    model = copy.deepcopy(model)
    model.eval()  # mmpretrain's backbones return None
    for layer in binary_layers(model, every_name=True).values():
        weight = layer.effective_weight().detach()
        layer.weight_binarizer = RealWeight() if layer.has_real_weights else FixedWeight()
        layer.weight = nn.Parameter(weight, requires_grad=False)
    return model.requires_grad_(False)


class Flat(nn.Module):
    """Module that returns the tensors in a network's output as a flat tuple."""

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        return tuple(tree_leaves(self.network(*inputs)))


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep torch from printing its graph before an error.

    From 2.7 on its exporter switches its log on, whatever ``verbose`` says.
    """
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def write_graph(
    network: nn.Module,
    path: Path,
    example: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_batch: bool,
    opset: int,
) -> None:
    """Write ``network`` by torch's exporter.

    Raises:
        ExportError: If torch cannot write it.
    """
    names = (*input_names, *output_names) if dynamic_batch else ()
    with _EXPORTER, _without_log(), warnings.catch_warnings():
        # torch warns that this exporter, which needs onnx only, is deprecated
        warnings.simplefilter('ignore')
        for name, symbolic in _SYMBOLICS.items():
            torch.onnx.register_custom_op_symbolic(name, symbolic, 9)  # type: ignore[attr-defined]
        try:
            torch.onnx.export(
                network,
                example,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_axes={name: {0: 'batch'} for name in names},
            )
        except RuntimeError as error:  # also those of torch's C++ code
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f'the network cannot become ONNX: {reason}') from error


def _loaded(runtime: Any, path: Path) -> Any:
    """Load a file in ONNX Runtime."""
    try:
        return runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    except Exception as error:  # its classes have no public base
        reason = sentence(error).split(f'{path.name} failed:', 1)[-1]
        raise ExportError(f'ONNX Runtime cannot load the network ({reason})') from error


def _check_batches(
    run: Callable[[Sequence[Tensor]], Sequence[np.ndarray]],
    network: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    names: Sequence[str],
) -> None:
    """Run a graph on a batch of several examples, and compare it with torch.

    A trace can hold the batch of its example as a constant, for example in a reshape.

    Raises:
        ExportError: If the graph does not take the batch, or computes something else.
    """
    batch = tuple(map(torch.cat, zip(*[*examples, *examples][:BATCHED])))
    count = len(batch[0])
    try:
        ours = list(run(batch))
        with inference(network):
            theirs = [y.float().numpy() for y in network(*batch)]
        fits = all(x.shape == y.shape and len(y) == count for x, y in zip(ours, theirs))
    except Exception:  # classes of ONNX Runtime, and a network of a user can raise anything
        fits = False
    if not fits:
        raise ExportError(
            'this network is exported for one size of batch only: pass '
            'dynamic_batch=False (--fixed-batch)'
        )
    by_image = [[[y[i : i + 1] for y in ys] for i in range(count)] for ys in (ours, theirs)]
    compare_all('ONNX Runtime', names, by_image[0], by_image[1])


@checked(
    network=MODULE, examples=EXAMPLES, input_names=NAMES, output_names=optional(NAMES), opset=OPSET
)
@plain_defaults()  # the exporter makes constants of the default dtype and device
def export_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    examples: Sequence[tuple[Tensor, ...]],
    *,
    input_names: Sequence[str] = ('images',),
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    opset: int = 17,
) -> list[OutputAgreement]:
    """Write a trained network as ONNX, and compare it with torch.

    Binary weights become constants ``-a`` and ``+a``, with ``a = 1`` where the family
    has no scale; signs become ``Ceil(Min(Where(x > 0, x, -1), 1))``.

    Args:
        network: Module from tensors to tensors.
        path: File to write; an existing file is replaced.
        examples: Inputs, one tuple per example, batch first. Outputs are compared on
            them, so use real inputs. The first example fixes all sizes except the batch.
        input_names: Names of the inputs. Default ``('images',)``. The file lacks an input
            that the network does not read.
        output_names: Names of the outputs. Default: ``output_0`` and so on.
        dynamic_batch: Whether the file takes any batch size, which is tested. Default True.
        opset: Version of ONNX's operators, 11 to 23. Default 17.

    Returns:
        Differences between ONNX Runtime and torch, output by output.

    Raises:
        PackError: If a layer's weights are not binary yet, or are computed from other tensors;
            the message names it.
        ImportError: If onnx or onnxruntime is not installed.
        ExportError: If the outputs are not torch's, or the network cannot be exported,
            takes one size of batch only (``dynamic_batch``) or has weights that are NaN
            or infinite; nothing is written. Also if ONNX Runtime cannot load the file.
        ValueError: If the numbers of names, or the sizes of examples, do not fit.
        OSError: If the file cannot be written.
    """
    require('onnx', 'deploy', 'ONNX export')
    runtime = require('onnxruntime', 'deploy', 'ONNX export')
    if dynamic_batch and takes_one_image(network):
        raise ExportError(
            'a two-stage detector is exported for one image at a time: pass '
            'dynamic_batch=False (--fixed-batch)'
        )
    check_examples(examples, input_names, output_names, open_batch=dynamic_batch)
    check_file(path)
    check_weights(network)
    flat = Flat(with_constant_weights(network))
    with whole_file(path) as partial:
        with inference(flat):
            with dtypes_named(flat, examples[0]):
                names = names_of(flat(*examples[0]), output_names)
            write_graph(
                flat,
                partial,
                examples[0],
                input_names=input_names,
                output_names=names,
                dynamic_batch=dynamic_batch,
                opset=opset,
            )
            session = _loaded(runtime, partial)
        read = [port.name for port in session.get_inputs()]
        feed_of(read, input_names, examples[0])  # its error says more than that of a batch

        def run(example: Sequence[Tensor]) -> Sequence[np.ndarray]:
            return session.run(None, feed_of(read, input_names, example))

        if dynamic_batch:
            _check_batches(run, flat, examples, names)
        unordered = has_unordered_rows(network)
        return compare_runs('ONNX Runtime', names, run, flat, examples, unordered)
