"""Conversion of a torch model to a fast OpenVINO graph with binary convolutions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import apply_moc_transformations
from torch import Tensor, nn

from ...binary.arguments import MODULE
from ...checks import checked, filled_text, instance, sequence
from ..native.axes import NotCovered
from ..native.compiling import compile_program
from ..runtime.core import COMPILE_OPTIONS, shared_core
from ..runtime.manifest import ExportError
from ..runtime.program import Program
from .calls import BinaryCall
from .copies import sum_kernels_of_copies
from .layout import channels_last
from .means import push_means
from .pooling import pad_before_averages
from .signs import compare_directly
from .trace import conversion_error, trace


@dataclass(frozen=True)
class LayerReport:
    """Report of the conversion of one binary layer.

    Attributes:
        layer: Name of the layer.
        operator: Name of its binary operator.
        shape: Shape of its weight; None for products of activations.
        macs: Multiplications of all its runs for one example.
        binary: True if it runs on bits.
        reason: Reason why it does not run on bits; for a binary layer a remark, or None.
    """

    layer: str
    operator: str
    shape: tuple[int, ...] | None
    macs: int
    binary: bool
    reason: str | None


@dataclass(frozen=True)
class Conversion:
    """Converted model.

    Attributes:
        graph: OpenVINO's graph.
        layers: One report for every layer that runs a binary operator.
        native: Program and data for the native library, or the reason why there is none;
            None if it was not requested.
        head: Graph of a detector's neck and heads, which reads the outputs of ``native``; None
            if ``native`` is the whole model. See :mod:`mmesbnn.deploy.openvino.parts`.
    """

    graph: ov.Model
    layers: list[LayerReport]
    native: tuple[Program, np.ndarray] | str | None = None
    head: ov.Model | None = None

    @property
    def not_binary(self) -> list[LayerReport]:
        """Layers that stayed in full precision."""
        return [layer for layer in self.layers if not layer.binary]


def _remark(call: BinaryCall, zeros: dict[str, int | None]) -> str | None:
    """Return the reason why a call is not binary, or why a binary call is slow, or None."""
    if call.reason is not None:
        return call.reason
    reasons = []
    if call.pads_zeros_itself:
        reasons.append("OpenVINO's binary kernel does not pad these zeros rightly")
    if zeros.get(call.layer) == 0:
        reasons.append('sign(0) is 0')
    if not reasons:
        return None
    count, times = [('two', 'twice'), ('four', 'four times')][len(reasons) - 1]
    return f'{" and ".join(reasons)}: {count} binary convolutions, {times} the time'


def _report(call: BinaryCall, zeros: dict[str, int | None]) -> LayerReport:
    return LayerReport(
        layer=call.layer,
        operator=call.operator,
        shape=call.weight_shape,
        macs=call.macs,
        binary=call.reason is None,
        reason=_remark(call, zeros),
    )


def _reports(calls: Sequence[BinaryCall], zeros: dict[str, int | None]) -> list[LayerReport]:
    """Return one report per layer and operator."""
    reports: dict[tuple[str, str], LayerReport] = {}
    for call in calls:
        key, report = (call.layer, call.operator), _report(call, zeros)
        reports[key] = _merged(reports[key], report) if key in reports else report
    return list(reports.values())


def _merged(first: LayerReport, second: LayerReport) -> LayerReport:
    """Return the report of a layer that runs several times, such as a head on all levels."""
    worse = second if first.binary and not second.binary else first
    return replace(
        worse,
        macs=first.macs + second.macs,
        reason=worse.reason or (second.reason if worse.binary else None),
    )


def _check_signs(calls: Sequence[BinaryCall], zeros: dict[str, int | None]) -> None:
    """Refuse inputs that are not made of signs."""
    for call in calls:
        may_be_zero = zeros.get(call.layer) == 0
        if call.reason is None and not call.exact_signs and not may_be_zero:
            raise ExportError(
                f'{call.layer}: its input is not +-1, and not made by a sign of '
                'mmesbnn.binary either'
            )


def native_form(
    graph: ov.Model, example: Sequence[Tensor], half: bool
) -> tuple[Program, np.ndarray] | str:
    """Compile a graph for the native library.

    Args:
        graph: Graph of :func:`binary_graph`.
        example: See :func:`to_openvino`.
        half: See :func:`to_openvino`.

    Returns:
        Program and data, or the reason why this is impossible.
    """
    if len(graph.inputs) != 1:
        return f'the network has {len(graph.inputs)} inputs, and the native library supports one'
    single = graph.clone()
    try:
        with _converting():
            single.reshape(ov.PartialShape([1, *example[0].shape[1:]]))
            _clean(single)
    except ExportError as error:
        return f'the network does not run on one image: {error}'
    if half:
        _replace(single, lambda rounded: ops.constant(rounded.astype(np.float32)))
    try:
        return compile_program(single)
    except NotCovered as error:
        return str(error)


@contextlib.contextmanager
def _converting() -> Iterator[None]:
    """Turn an error of OpenVINO inside, such as one about shapes, into an ExportError."""
    try:
        yield
    except RuntimeError as error:
        raise conversion_error(error) from error


def _set_names(ports: Sequence[Any], names: Sequence[str]) -> None:
    for port, name in zip(ports, names):
        port.get_tensor().set_names({name})


def _clean(graph: ov.Model) -> None:
    apply_moc_transformations(graph, cf=True)


def binary_graph(
    model: nn.Module, example: Sequence[Tensor], *, dynamic_batch: bool = False
) -> tuple[ov.Model, list[LayerReport]]:
    """Convert ``model`` to a graph of comparisons and binary convolutions.

    :func:`to_openvino` and :func:`mmesbnn.deploy.native.compiling.compile_program` both start
    from this graph.

    Args:
        model: See :func:`to_openvino`.
        example: See :func:`to_openvino`.
        dynamic_batch: See :func:`to_openvino`. Default False.

    Returns:
        The graph, and one report for every layer that runs a binary operator.

    Raises:
        ExportError: If a layer's weights should be signs and are not, or the model
            cannot be converted.
    """
    graph, calls = trace(model, example, dynamic_batch=dynamic_batch)
    shapes = [[-1 if dynamic_batch else len(x), *x.shape[1:]] for x in example]
    with _converting():
        graph.reshape({port: ov.PartialShape(s) for port, s in zip(graph.inputs, shapes)})
        _clean(graph)
        pad_before_averages(graph)
        zeros = compare_directly(graph)
        _check_signs(calls, zeros)
        if zeros:
            push_means(graph)
            sum_kernels_of_copies(graph)
            _clean(graph)
    return graph, _reports(calls, zeros)


@checked(
    model=MODULE,
    example=sequence(instance(Tensor, 'a tensor'), shortest=1),
    input_names=sequence(filled_text),
    output_names=sequence(filled_text),
)
def to_openvino(
    model: nn.Module,
    example: Sequence[Tensor],
    *,
    input_names: Sequence[str] = ('input',),
    output_names: Sequence[str] = ('output',),
    dynamic_batch: bool = False,
    half: bool = False,
    with_native: bool = False,
) -> Conversion:
    """Convert ``model`` to a graph whose binary layers run on bits.

    Every binary layer becomes ``bits(x > -b)`` and OpenVINO's ``BinaryConvolution``, times
    the scale of its weights. For a linear layer the convolution has a 1x1 kernel. Products of
    two binary activations stay in full precision. Outputs differ from the model's only by
    rounding, which may flip the sign of a value that is very close to a threshold.

    Args:
        model: Takes the tensors of ``example``, returns a tensor or a tuple of them.
        example: Inputs; all but the first axis are the graph's shapes.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        dynamic_batch: Whether the first axis can have any size. OpenVINO's binary
            convolution must know the size, so call ``graph.reshape`` before compiling.
            Default False.
        half: Whether to round full-precision constants to half precision. Default False.
        with_native: Whether to compile the model for the native library, too. Default
            False.

    Raises:
        ExportError: If a layer's weights should be signs and are not, or the model
            cannot be converted.
    """
    graph, layers = binary_graph(model, example, dynamic_batch=dynamic_batch)
    native = native_form(graph, example, half) if with_native else None
    with _converting():
        if any(layer.binary for layer in layers):
            channels_last(graph)
        _clean(graph)
        _set_names(graph.inputs, input_names)
        _set_names(graph.outputs, output_names)
        if half:
            halve(graph)
    return Conversion(graph, layers, native)


def _halved(graph: ov.Model) -> Iterator[tuple[ov.Node, np.ndarray]]:
    """Yield the constants that half precision can hold, and their rounded values."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != 'Constant' or node.get_element_type() != ov.Type.f32:
            continue
        targets = node.output(0).get_target_inputs()
        if any(t.get_node().get_type_name() == 'FakeQuantize' for t in targets):
            continue
        with np.errstate(over='ignore'):
            rounded = node.get_data().astype(np.float16)
        if rounded.size > 1 and np.isfinite(rounded).all():
            yield node, rounded


def _replace(graph: ov.Model, make: Callable[[np.ndarray], ov.Node]) -> None:
    for node, rounded in list(_halved(graph)):
        targets = list(node.output(0).get_target_inputs())
        whole = make(rounded).output(0)
        for target in targets:
            target.replace_source_output(whole)
    graph.validate_nodes_and_infer_types()


def halve(graph: ov.Model) -> None:
    """Store full-precision constants in half precision; they are used in float32.

    Thresholds of signs, and values outside of half precision, do not change.

    Args:
        graph: Changed in place.
    """
    _replace(graph, lambda rounded: ops.convert(ops.constant(rounded), 'f32'))


def compile_graph(graph: ov.Model, threads: int = 0, **options: Any) -> ov.CompiledModel:
    """Compile for the CPU, in float32.

    Args:
        graph: Graph with a known batch.
        threads: Number of threads; 0 lets OpenVINO choose. Default 0.
        **options: More properties of OpenVINO's CPU plugin.
    """
    settings: dict[str, Any] = {**COMPILE_OPTIONS, **options}
    if threads:
        settings['INFERENCE_NUM_THREADS'] = threads
    return shared_core().compile_model(graph, 'CPU', settings)
