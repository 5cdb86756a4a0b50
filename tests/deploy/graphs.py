"""Networks and graphs that the tests of the OpenVINO export share."""

import numpy as np
import openvino as ov

from mmesbnn.deploy.openvino.graph import compile_graph, to_openvino


def run_graph(graph, *inputs):
    """Return the outputs of a graph as arrays, computed in one thread."""
    request = compile_graph(graph, threads=1).create_infer_request()
    request.infer([np.asarray(x) for x in inputs])
    return [np.array(tensor.data) for tensor in request.output_tensors]


def converted(model, *inputs, **options):
    """Return a model's conversion and the graph's first output for ``inputs``."""
    conversion = to_openvino(model.eval(), inputs, **options)
    if options.get('dynamic_batch'):
        conversion.graph.reshape([len(inputs[0]), *inputs[0].shape[1:]])
    return conversion, run_graph(conversion.graph, *inputs)[0]


def kinds(graph):
    """Count the operators by kind."""
    names = [node.get_type_name() for node in graph.get_ops()]
    return {name: names.count(name) for name in set(names)}


def constants(graph, dtype):
    return [
        node
        for node in graph.get_ops()
        if node.get_type_name() == 'Constant' and node.get_element_type() == dtype
    ]


def stored_bits(graph):
    """Return the binary weights in a graph."""
    return sum(int(np.prod(n.get_output_shape(0))) for n in constants(graph, ov.Type.u1))
