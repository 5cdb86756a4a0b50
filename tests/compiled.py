"""Operators of compiled code and of exported programs."""

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

#: Torch before 2.7 does not say whether it compiles or exports; all compiling counts as exporting.
TELLS_EXPORT = hasattr(torch.compiler, '_is_exporting_flag')


def compiled(function):
    """Compile to one graph without generating code; return it and the operators of both passes."""
    operators = []

    def note(graph, inputs):
        operators.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=note, bw_compiler=note)
    return torch.compile(function, backend=backend, fullgraph=True, dynamic=False), operators


def exported_operators(module, *inputs):
    """Return the operators of an exported module."""
    program = torch.export.export(module, inputs)
    return [str(node.target) for node in program.graph.nodes]
