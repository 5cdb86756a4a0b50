"""Export to QONNX, the ONNX with quantizers that compilers for FPGAs read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..analysis.ops import count_ops
from ..binary.arguments import MODULE
from ..binary.modes import inference, plain_defaults
from ..checks import checked, optional
from ..errors import sentence
from ..optional import require
from ..whole_files import check_file, whole_file
from .first_run import dtypes_named
from .onnx import Flat, with_constant_weights, write_graph
from .onnx_arguments import EXAMPLES, NAMES, OPSET, check_examples, feed_of, names_of
from .output_agreement import OutputAgreement, compare_runs
from .qonnx_nodes import use_quantizers
from .runtime.manifest import ExportError
from .tasks.finite_weights import check_weights


@dataclass(frozen=True)
class QonnxReport:
    """Report of an export to QONNX.

    Attributes:
        agreements: Differences between the executor of the package qonnx and torch, output
            by output.
        multiplications: Number of multiplications for one example by the types of their
            operands in the file, such as ``{'BIPOLAR x BIPOLAR': 4063232}``, from qonnx's
            ``inference_cost``.
    """

    agreements: list[OutputAgreement]
    multiplications: dict[str, int]

    @property
    def binary(self) -> int:
        """Number of multiplications of quantized operands."""
        counts = self.multiplications.items()
        return sum(count for types, count in counts if 'FLOAT' not in types)


@contextmanager
def _by_qonnx() -> Iterator[None]:
    """Raise an error of the package qonnx as an :class:`ExportError`."""
    try:
        yield
    except Exception as error:  # it raises bare exceptions
        raise ExportError(f'qonnx cannot run the network ({sentence(error)})') from error


def _compared(
    graph: Any,
    input_names: Sequence[str],
    names: Sequence[str],
    network: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
) -> list[OutputAgreement]:
    """Compare qonnx's executor with torch."""
    from qonnx.core.onnx_exec import execute_onnx

    read = [port.name for port in graph.graph.input]

    def run(example: Sequence[Tensor]) -> list[np.ndarray]:
        feed = feed_of(read, input_names, example)
        with _by_qonnx():
            return list(execute_onnx(graph, feed).values())

    return compare_runs('qonnx', names, run, network, examples)


def _multiplications(graph: Any) -> dict[str, int]:
    """Count the multiplications of a graph by the types of their operands."""
    from qonnx.analysis.inference_cost import inference_cost
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_datatypes import InferDataTypes

    with _by_qonnx():
        typed = ModelWrapper(graph.model, make_deepcopy=True)  # the types stay out of the file
        InferDataTypes(allow_scaledint_dtypes=True).apply(typed)
        costs = inference_cost(typed, discount_sparsity=False)['total_cost']
    macs = {name: count for name, count in costs.items() if name.startswith('op_mac_')}
    return {' x '.join(name.split('_')[2:]): int(count) for name, count in macs.items()}


def _check_count(report: QonnxReport, network: nn.Module, example: Sequence[Tensor]) -> None:
    """Raise an :class:`ExportError` if the file has not the binary operations of the network."""
    expected = count_ops(network, *example).total['bops']
    if report.binary != expected:
        raise ExportError(
            f'the network has {expected} binary multiplications, and {report.binary} became '
            'multiplications of quantized values: the input of a binary layer must come from a '
            'sign of mmesbnn.binary, or from a sign that the layer itself has'
        )


@checked(
    network=MODULE, examples=EXAMPLES, input_names=NAMES, output_names=optional(NAMES), opset=OPSET
)
@plain_defaults()
def export_qonnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    examples: Sequence[tuple[Tensor, ...]],
    *,
    input_names: Sequence[str] = ('images',),
    output_names: Sequence[str] | None = None,
    opset: int = 17,
) -> QonnxReport:
    """Write a trained network as QONNX, and compare it with torch.

    Signs and binary weights become ``BipolarQuant`` nodes with scale 1, see
    :mod:`mmesbnn.deploy.qonnx_nodes`. A scale of weights becomes a ``Mul`` after the
    convolution or the product. Signs with ``sign(0) = 0``, activations of 0 and 1 and the
    probabilities of binary attention become ``Quant`` nodes. Everything else is plain ONNX
    in float32. All shapes in the file are fixed.

    Args:
        network: Module from tensors to tensors.
        path: File to write; an existing file is replaced.
        examples: Inputs, one tuple per example, batch first. Outputs are compared on
            them, so use real inputs. The first example fixes all sizes.
        input_names: Names of the inputs. Default ``('images',)``. The file lacks an input
            that the network does not read.
        output_names: Names of the outputs. Default: ``output_0`` and so on.
        opset: Version of ONNX's operators, 11 to 23. Default 17.

    Returns:
        Differences between the executor of qonnx and torch, and the multiplications of
        one example.

    Raises:
        PackError: If a layer's weights are not binary yet; the message names it.
        ImportError: If qonnx, onnx or onnxruntime is not installed.
        ExportError: If the outputs or the binary multiplications are not torch's, if no
            quantizer has the exact values of a sign, or if the network cannot be exported,
            has weights that are NaN or infinite, or tensors without a fixed shape; nothing
            is written.
        ValueError: If the numbers of names, or the sizes of examples, do not fit.
        OSError: If the file cannot be written.
    """
    for package in ('onnx', 'onnxruntime', 'qonnx'):
        require(package, 'fpga', 'QONNX export')
    from qonnx.core.modelwrapper import ModelWrapper

    from .onnx_folding import simplify

    check_examples(examples, input_names, output_names, open_batch=False)
    check_file(path)
    check_weights(network)
    plain, quantized = (Flat(with_constant_weights(network)) for _ in range(2))
    use_quantizers(quantized.network)
    with whole_file(path) as partial, inference(quantized):
        with dtypes_named(quantized, examples[0]):
            names = names_of(quantized(*examples[0]), output_names)
        write_graph(
            quantized,
            partial,
            examples[0],
            input_names=input_names,
            output_names=names,
            dynamic_batch=False,
            opset=opset,
        )
        graph = ModelWrapper(simplify(partial))
        agreements = _compared(graph, input_names, names, plain, examples)
        report = QonnxReport(agreements, _multiplications(graph))
        _check_count(report, network, examples[0])
    return report
