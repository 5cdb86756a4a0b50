"""Simpler ONNX graphs: constants are computed, and nodes that change nothing are left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnx import numpy_helper

from .runtime.manifest import ExportError

#: Element type and shape by name of a tensor.
_Types = dict[str, tuple[int, tuple[int, ...]]]


def _set(field: Any, content: Iterable[Any]) -> None:
    """Let a repeated field hold ``content``, which may be a part of it."""
    content = [type(x).FromString(x.SerializeToString()) for x in content]
    del field[:]
    field.extend(content)


def _infer_shapes(model: onnx.ModelProto) -> None:
    """Store the shape of every tensor of a graph; nodes of other domains keep their input's."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain:
            node.CopyFrom(onnx.helper.make_node('Identity', node.input[:1], node.output))
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    _set(model.graph.value_info, inferred.graph.value_info)
    _set(model.graph.output, inferred.graph.output)


def _types(graph: onnx.GraphProto) -> _Types:
    """Return element type and shape of every tensor that has a fixed shape."""
    found = {x.name: (x.data_type, tuple(x.dims)) for x in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if kind.HasField('shape') and all(d.HasField('dim_value') for d in kind.shape.dim):
            found[info.name] = (kind.elem_type, tuple(d.dim_value for d in kind.shape.dim))
    return found


def _compute(model: onnx.ModelProto, nodes: Iterable[Any], names: Iterable[str]) -> list[Any]:
    """Compute outputs of nodes that read constants only, with ONNX Runtime."""
    nodes = list(nodes)
    read = {name for node in nodes for name in node.input}
    graph = onnx.GraphProto(name='constants')
    graph.node.extend(nodes)
    graph.initializer.extend(x for x in model.graph.initializer if x.name in read)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    part = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    part.opset_import.extend(model.opset_import)
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return session.run(None, {})


def _make_constant(node: Any, types: _Types) -> None:
    """Make a ``Shape`` node of a fixed shape a ``Constant`` node."""
    shape = types[node.input[0]][1]
    sizes = onnx.helper.make_tensor('', onnx.TensorProto.INT64, [len(shape)], shape)
    constant = onnx.helper.make_node('Constant', [], [node.output[0]], node.name, value=sizes)
    node.CopyFrom(constant)


def _changes_nothing(node: Any, types: _Types) -> bool:
    if node.op_type == 'Identity':
        return True
    before, after = types.get(node.input[0]), types.get(node.output[0])
    return node.op_type in ('Cast', 'Expand') and before is not None and before == after


def _split(graph: onnx.GraphProto, types: _Types) -> tuple[list[Any], list[Any]]:
    """Return the nodes that read constants only, and all others."""
    constants = {x.name for x in graph.initializer}
    folded, kept = [], []
    for node in graph.node:
        if node.op_type == 'Shape' and node.input[0] in types and not node.attribute:
            _make_constant(node, types)
        if not node.domain and all(name in constants or not name for name in node.input):
            constants.update(node.output)
            folded.append(node)
        else:
            kept.append(node)
    return folded, kept


def _without_copies(graph: onnx.GraphProto, nodes: list[Any], types: _Types) -> list[Any]:
    """Leave out nodes that change nothing; their readers read what they read."""
    outputs = {x.name for x in graph.output}
    same: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [same.get(name, name) for name in node.input]
        if _changes_nothing(node, types) and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def _fold(model: onnx.ModelProto) -> None:
    """Compute the nodes that read constants only, and leave out copies."""
    graph = model.graph
    types = _types(graph)
    folded, kept = _split(graph, types)
    kept = _without_copies(graph, kept, types)
    read = {x.name for x in graph.output}.union(*(node.input for node in kept))
    wanted = sorted({name for node in folded for name in node.output} & read)
    values = {x.name: x for x in graph.initializer if x.name in read}
    if wanted:
        arrays = _compute(model, folded, wanted)
        values.update((n, numpy_helper.from_array(x, n)) for n, x in zip(wanted, arrays))
    _set(graph.node, kept)
    _set(graph.initializer, values.values())


def simplify(path: Path) -> onnx.ModelProto:
    """Simplify the ONNX graph in a file; nodes of other domains than ONNX's own stay.

    Args:
        path: File to read and to write. The inputs of the graph have fixed shapes.

    Returns:
        The graph, with the shape of every tensor. All constants are initializers.

    Raises:
        ExportError: If a tensor has no fixed shape.
    """
    model = onnx.load(path)
    count = None
    while count != len(model.graph.node):  # a folded constant can be the shape of a tensor
        count = len(model.graph.node)
        _infer_shapes(model)
        _fold(model)
    _infer_shapes(model)
    known = _types(model.graph)
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                raise ExportError(
                    f'the network cannot become QONNX: the size of {name} depends on values'
                )
    onnx.save(model, path)
    return model
