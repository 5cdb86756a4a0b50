import dataclasses
import json
import sys

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d
from mmesbnn.models.backbones import BNext

pytest.importorskip('openvino')

import numpy as np
import openvino as ov

from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy import read_manifest
from mmesbnn.deploy.openvino import export as exporting
from mmesbnn.deploy.openvino.export import check_output, export
from mmesbnn.deploy.openvino.graph import compile_graph, to_openvino
from mmesbnn.deploy.openvino.verify import verify
from mmesbnn.deploy.runtime.classification import ClassificationDecoding
from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.runtime.manifest_schema import Input, Output
from mmesbnn.deploy.runtime.steps import Preprocessing
from mmesbnn.deploy.tasks.classification import ClassificationExport
from mmesbnn.deploy.tasks.images import photographs

PREPROCESSING = Preprocessing(steps=(), mean=(0.0,) * 3, std=(255.0,) * 3, to_rgb=True)


class Classifier(nn.Module):
    def __init__(self, backbone=None, **options):
        super().__init__()
        self.backbone = BNext(dict(channels=[16, 32, 32, 64]), tau=2, **(backbone or {}))
        self.extra = BinaryConv2d(64, 10, 1, **options)

    def forward(self, x):
        return self.extra(self.backbone(x)[-1]).mean((2, 3))


def make_task(**options):
    model = lifelike(Classifier(**options), torch.randn(2, 3, 32, 32))
    return ClassificationExport(
        graph=model,
        input_names=('image',),
        output_names=('logits',),
        preprocessing=PREPROCESSING,
        classes=None,
        decoding=ClassificationDecoding(activation='softmax'),
        images=photographs((3, 32, 32), PREPROCESSING, 2)[0],
        source='bundled photographs',
    )


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp('export') / 'net'
    return out, export(make_task(), out, strict=True)


def test_what_the_folder_holds(exported):
    out, _ = exported
    manifest = read_manifest(out)
    assert manifest.inputs == (Input(name='image', shape=(1, 3, 32, 32)),)
    assert manifest.outputs == (Output(name='logits', shape=(1, 10)),)
    assert manifest.versions.keys() == {'mmesbnn', 'openvino', 'torch'}
    told = json.loads((out / 'report.json').read_text())
    assert len(told['layers']) == 9 and all(x['binary'] for x in told['layers'])
    assert not list(out.parent.glob('.net*'))  # no partly written file remains


def test_weights_are_bits_in_the_file(exported):
    out, report = exported
    model = make_task().graph
    binary = sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    real = sum(p.numel() for p in model.parameters()) - binary
    assert report.bits == binary // 8
    # thresholds, slopes, affines with their statistics, kernels of the gates
    assert report.weights < binary / 8 + 4 * real + 20_000
    assert report.weights == (out / 'model.bin').stat().st_size


def test_report_tells_how_well_it_agrees(exported):
    _, report = exported
    (agreement,) = report.agreements
    assert agreement.name == 'logits' and agreement.examples == 2
    assert agreement.top1 == 1.0
    text = report.text()
    assert '9 of 9 binary layers run on bits (100.0 %' in text
    assert 'compared with torch on 2 bundled photographs' in text


def test_strict_names_the_layers_that_stay_real(tmp_path):
    task = make_task(weight_binarizer='real')
    with pytest.raises(
        ExportError, match=r'^strict=True \(--strict\): .* extra: its weight_binarizer'
    ):
        export(task, tmp_path / 'net', strict=True)
    assert not (tmp_path / 'net').exists()
    report = export(task, tmp_path / 'net')
    assert 'extra (in full precision): its weight_binarizer is "real"' in report.text()


def test_a_backbone_with_another_sign_and_weight_binarizer(tmp_path):
    task = make_task(backbone=dict(sign='ede', weight_binarizer='balanced'))
    report = export(task, tmp_path / 'net', strict=True)
    assert '9 of 9 binary layers run on bits' in report.text()
    assert report.agreements[0].top1 == 1.0


def test_layers_that_read_several_bits_stay_in_full_precision(tmp_path):
    report = export(make_task(backbone=dict(sign='dorefa')), tmp_path / 'net')
    assert '1 of 9 binary layers run on bits' in report.text()
    assert 'stages.0.0.spatial.conv (in full precision): ' in report.text()
    assert '4 values from 0 to 1' in report.text()
    assert report.agreements[0].top1 == 1.0


def test_a_former_export_is_replaced_and_nothing_else(exported, tmp_path):
    out = tmp_path / 'net'
    out.mkdir()
    (out / 'thesis.tex').write_text('years of work')
    with pytest.raises(ExportError, match='holds other files than an export'):
        export(make_task(), out)
    with pytest.raises(ExportError, match='holds other files than an export'):
        check_output(out)  # the tool calls this before it loads the network
    assert (out / 'thesis.tex').read_text() == 'years of work'
    (out / 'thesis.tex').rename(out / 'model.xml')
    export(make_task(), out)
    assert read_manifest(out).task == 'classification'


def test_unwritable_output(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ExportError, match=r'^out=.* \(--out\) is a file, and must be a folder'):
        check_output(tmp_path / 'file')
    with pytest.raises(ExportError, match='cannot be written'):
        export(make_task(), tmp_path / 'file' / 'net')


def test_another_network_does_not_pass(tmp_path):
    first, other = make_task(), make_task()
    lifelike(other.graph, torch.randn(2, 3, 32, 32), seed=1)
    with torch.no_grad():
        other.graph.extra.weight.mul_(-1)
    example = first.example(0)
    compiled = compile_graph(to_openvino(first.graph, example).graph, threads=1)
    with pytest.raises(ExportError, match='OpenVINO disagrees with torch: logits'):
        verify(compiled, other.graph, [example], ['logits'])


def test_photographs_are_normalised():
    images, name = photographs(
        (3, 20, 30), dataclasses.replace(PREPROCESSING, mean=(10.0,) * 3, std=(2.0,) * 3)
    )
    assert images.shape[1:] == (3, 20, 30)
    restored = images * 2 + 10
    assert restored.min() >= -1e-3 and restored.max() <= 255.001
    assert float(np.std(restored.numpy())) > 10
    assert name == 'bundled photographs'


def test_without_photographs_the_report_says_noise(monkeypatch):
    for library in ('skimage', 'sklearn.datasets'):
        monkeypatch.setitem(sys.modules, library, None)
    images, name = photographs((3, 20, 30), PREPROCESSING, 3)
    assert images.shape == (3, 3, 20, 30) and name == 'images of random noise'


@pytest.mark.parametrize('wrong', [lambda y: y.reshape(len(y), 2, 5), lambda y: y[:1]])
def test_a_batch_that_cannot_be_left_open(tmp_path, wrong):
    class ForOneImage(Classifier):
        def forward(self, x):
            return wrong(super().forward(x))

    task = dataclasses.replace(
        make_task(), graph=lifelike(ForOneImage(), torch.randn(1, 3, 32, 32))
    )
    with pytest.raises(
        ExportError, match=r'^dynamic_batch=True \(--dynamic-batch\): .* one image at a time'
    ):
        export(task, tmp_path / 'net', dynamic_batch=True)
    assert not (tmp_path / 'net').exists()


@pytest.mark.parametrize('dynamic_batch', [False, True])
def test_the_report_says_what_to_heed_elsewhere(dynamic_batch, tmp_path):
    out = tmp_path / 'net'
    text = export(make_task(), out, dynamic_batch=dynamic_batch).text()
    assert 'INFERENCE_PRECISION_HINT=f32' in text and 'bfloat16' in text
    assert ('the batch is open' in text) is dynamic_batch
    told = json.loads((out / 'report.json').read_text())['remarks']
    assert len(told) == 1 + dynamic_batch and all(line in text for line in told)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_no_numbers(value, tmp_path):
    task = make_task()
    name, parameter = list(task.graph.named_parameters())[-2]
    with torch.no_grad():
        parameter.view(-1)[0] = value
    with pytest.raises(ExportError, match=f'{name} .*holds NaN or infinity'):
        export(task, tmp_path / 'net')
    assert list(tmp_path.iterdir()) == []


def test_networks_that_are_refused_before_the_conversion(tmp_path, monkeypatch):
    class Twice(Classifier):
        def forward(self, x):
            return super().forward(x), x

    class Segments(Classifier):
        def forward(self, x):
            return self.extra(self.backbone(x)[-1])

    monkeypatch.setattr(exporting, 'to_openvino', None)
    doubled, twice = make_task(), dataclasses.replace(make_task(), graph=Twice())
    segments = dataclasses.replace(make_task(), graph=Segments())
    doubled.graph.double()
    named = dataclasses.replace(make_task(), classes=('two\nlines',) * 10)
    for task, words in [
        (doubled, 'weights of torch.float64'),
        (twice, 'gives 2 outputs'),
        (segments, r'the manifest: outputs\[0\].shape=\[1, 10, 8, 8\] must be \(N, classes\)'),
        (dataclasses.replace(make_task(), classes=('cat',)), r"classes=\['cat'\] must be 10 names"),
        (named, r'the manifest: classes\[0\]=.* without control characters'),
    ]:
        with pytest.raises(ExportError, match=words):
            export(task, tmp_path / 'net')
    assert list(tmp_path.iterdir()) == []


def test_an_openvino_without_binary_convolutions(tmp_path, monkeypatch):
    def refuse(graph):
        raise RuntimeError('Unsupported operation of type: BinaryConvolution name: x')

    def replace(graph):
        x = ov.op.Parameter(ov.Type.f32, ov.Shape([1, 3]))
        return compile_graph(ov.Model([ov.opset13.relu(x)], [x]))

    for compile_otherwise in (refuse, replace):
        monkeypatch.setattr(exporting, 'compile_graph', compile_otherwise)
        with pytest.raises(ExportError, match='does not run the operator Binary'):
            export(make_task(), tmp_path / 'net')

    def fail(graph):
        raise RuntimeError('Check failed at src/x.cpp:1:\nno memory')

    monkeypatch.setattr(exporting, 'compile_graph', fail)
    with pytest.raises(ExportError, match=r'cannot compile the network \(.*no memory'):
        export(make_task(), tmp_path / 'net')
    assert list(tmp_path.iterdir()) == []
