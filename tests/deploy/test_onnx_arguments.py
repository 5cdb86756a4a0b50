"""Arguments of the exports to ONNX that do not fit give one sentence."""

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d, BinaryLinear
from mmesbnn.deploy import ExportError
from mmesbnn.deploy.onnx import export_onnx
from mmesbnn.deploy.qonnx import export_qonnx

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

EXPORTS = [export_onnx, export_qonnx]


def rows(*batches, width=3):
    return [(torch.randn(n, width),) for n in batches]


@pytest.mark.parametrize('export', EXPORTS)
@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'opset': 10}, 'opset=10 must be an integer from 11 to 23'),
        ({'opset': 24}, 'opset=24 must be'),
        ({'input_names': ['a', 'b']}, r"input_names=\['a', 'b'\] must be one name .* example, 1"),
        ({'input_names': []}, r'input_names=\[\] must be one name'),
        ({'input_names': ['a', 'a']}, 'must be a list of different'),
        ({'output_names': ['a', 'b']}, r"output_names=\['a', 'b'\] must be one name .* output, 1"),
        ({'output_names': ['images']}, r"\['images'\] has names of input_names"),
        ({'examples': [*rows(1), *rows(1, width=4)]}, r'examples\[1\] .*\[\[1, 4\]\]: .*\[\[1, 3'),
    ],
)
def test_what_does_not_fit(export, arguments, words, tmp_path):
    arguments = {'examples': rows(1), **arguments}
    if export is export_qonnx:
        pytest.importorskip('qonnx')
    with pytest.raises(ValueError, match=words):
        export(BinaryLinear(3, 3), tmp_path / 'x.onnx', **arguments)
    assert list(tmp_path.iterdir()) == []


def test_examples_of_other_batches_where_the_batch_is_fixed(tmp_path):
    model = BinaryLinear(3, 3)
    with pytest.raises(ValueError, match=r'examples\[1\] has the shapes \[\[1, 3\]\]'):
        export_onnx(model, tmp_path / 'x.onnx', rows(2, 1), dynamic_batch=False)
    export_onnx(model, tmp_path / 'x.onnx', rows(2, 1))


def test_examples_with_gradients(tmp_path):
    example = torch.randn(2, 3, requires_grad=True)
    (agreement,) = export_onnx(BinaryLinear(3, 3), tmp_path / 'x.onnx', [(example,)])
    assert agreement.equal == 1


def test_a_type_that_the_runtime_lacks(tmp_path):
    model = BinaryConv2d(3, 3, 3).double()
    with pytest.raises(ExportError, match=r'ONNX Runtime cannot load the network \(.*Conv'):
        export_onnx(model, tmp_path / 'x.onnx', [(torch.randn(1, 3, 5, 5).double(),)])
    assert list(tmp_path.iterdir()) == []


class ReadsSecond(nn.Sequential):
    def forward(self, mask, x):
        return super().forward(x)


class ReadsNone(nn.Module):
    def forward(self, mask, x):
        return torch.ones(2, 3)


@pytest.mark.parametrize('export', EXPORTS)
@pytest.mark.parametrize('options', [{}, {'dynamic_batch': False}], ids=str)
def test_inputs_that_a_network_does_not_read(export, options, tmp_path):
    if export is export_qonnx:
        pytest.importorskip('qonnx')
        options = {}
    path, names = tmp_path / 'x.onnx', ['mask', 'x']
    examples = [(torch.zeros(2, 5), torch.randn(2, 3))]
    export(ReadsSecond(BinaryLinear(3, 3)), path, examples, input_names=names, **options)
    assert [port.name for port in onnx.load(path).graph.input] == ['x']
    path.unlink()
    with pytest.raises(ExportError, match=r"none of its inputs, input_names=\['mask', 'x'\]: its"):
        export(ReadsNone(), path, examples, input_names=names, **options)
    assert list(tmp_path.iterdir()) == []
