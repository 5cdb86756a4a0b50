"""Private names of torch that we use are in the lowest release that setup.py allows."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / 'mmesbnn'
#: Seen in torch 2.5 by ``make test-min``. Run it before you add one: it may be of a later release.
KNOWN = {
    '_BatchNorm',
    '_C._current_graph_task_id',
    '_C._functorch.is_legacy_batchedtensor',
    '_C._functorch.maybe_current_level',
    '_C._jit_onnx_log',
    '_C._len_torch_dispatch_stack',
    '_ConvNd',
    '_NormBase',
    '_current_level',
    '_disable_dynamo',
    '_dynamo.config',
    '_ops.OpOverload',
    '_pair',
    '_parse_arg',
    '_prelu_kernel',
    '_prelu_kernel_backward',
    '_size_2_t',
    '_softmax_backward_data.out',
}


def torchs_names(tree):
    """Return the names under which a file knows torch and modules of torch."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or 'torch' for a in node.names if a.name.startswith('torch')}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('torch'):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def private_names(source):
    """Return private attributes of torch's modules, and private names that are imported."""
    tree, found = ast.parse(source), set()
    known = torchs_names(tree)
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('torch'):
            found |= {alias.name for alias in node.names if alias.name.startswith('_')}
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts, value = [], node
        while isinstance(value, ast.Attribute):
            parts.insert(0, value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id in known:
            first = next((i for i, p in enumerate(parts) if p.startswith('_')), None)
            if first is not None and not parts[first].startswith('__'):
                found.add('.'.join(parts[first:]))
    return found


def test_private_names_are_found():
    source = 'import torch\nfrom torch import nn\nfrom torch._x import _y\n'
    source += 'torch._C._z.a(); nn.modules.module._has(); torch.ops.aten.b._self; self._own\n'
    assert private_names(source) == {'_y', '_C._z.a', '_has', '_self'}


def test_no_private_name_is_new():
    found = {name for path in PACKAGE.rglob('*.py') for name in private_names(path.read_text())}
    assert found - KNOWN == set()
    assert KNOWN - found == set()
