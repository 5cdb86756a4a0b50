"""Networks whose first run shows that they cannot be exported."""

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryLinear
from mmesbnn.deploy import ExportError
from mmesbnn.deploy.first_run import check_run, dtypes_named
from mmesbnn.deploy.onnx import export_onnx
from mmesbnn.deploy.qonnx import export_qonnx

WORDS = r'weights of torch.float16, and its inputs are torch.float32: .* network.float\(\) \('


def halved():
    return nn.Sequential(nn.Linear(4, 6), BinaryLinear(6, 2)).half()


@pytest.mark.parametrize('export', [export_onnx, export_qonnx])
def test_weights_of_another_dtype(export, tmp_path):
    for package in ('onnx', 'onnxruntime', *(['qonnx'] if export is export_qonnx else [])):
        pytest.importorskip(package)
    with pytest.raises(ExportError, match=WORDS):
        export(halved(), tmp_path / 'x.onnx', [(torch.zeros(1, 4),)])
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_converts_its_inputs_itself():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = halved()

        def forward(self, x):
            return self.inner(x.half()).float()

    check_run(Casts(), [torch.zeros(1, 4)], ['logits'])


def test_other_errors_of_a_run_stay():
    for network, x in ((nn.Linear(4, 6), torch.zeros(1, 5)), (nn.Embedding(3, 2), torch.ones(1))):
        with pytest.raises(RuntimeError) as raised, dtypes_named(network, [x]):
            network(x)
        assert not isinstance(raised.value, ExportError)


@pytest.mark.parametrize('same', [True, False])
def test_the_number_of_outputs(same):
    class Two(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y, y if same else 2 * y

    with pytest.raises(ExportError, match='gives 2 outputs: its task has 1, logits'):
        check_run(Two(4, 6), [torch.zeros(1, 4)], ['logits'])


@pytest.mark.parametrize(
    ('outputs', 'told'),
    [
        (lambda y: None, 'gives None as output 0: must be a tensor'),
        (lambda y: (y, {'count': 3}), 'gives 3 as output 1: must be a tensor'),
        (lambda y: [], 'gives no outputs: must give tensors'),
    ],
)
def test_outputs_that_are_no_tensors(outputs, told, tmp_path):
    class Odd(nn.Sequential):
        def forward(self, x):
            return outputs(super().forward(x))

    network, example = Odd(BinaryLinear(4, 6)), torch.zeros(1, 4)
    with pytest.raises(ExportError, match=told):
        check_run(network, [example], ['logits'])
    for package in ('onnx', 'onnxruntime', 'qonnx'):
        pytest.importorskip(package)
    for export in (export_onnx, export_qonnx):
        with pytest.raises(ExportError, match=told):
            export(network, tmp_path / 'x.onnx', [(example,)])
