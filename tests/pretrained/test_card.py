"""The model card tells what was measured, in the form that a hub reads."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import mmesbnn
from mmesbnn.analysis import build_model, check_binary, count_ops, load_config, most_regions
from mmesbnn.analysis.report import readable
from mmesbnn.binary import BinaryConv2d
from mmesbnn.pretrained import PretrainedError
from tests.analysis.digits import set_temperature
from tests.pretrained.networks import (
    BACKBONE,
    SHAPE,
    backbone,
    classifier,
    classifier_config,
    outputs,
    trained,
)

pytest.importorskip('safetensors')

ROOT = Path(__file__).resolve().parents[2]
METRICS = {'accuracy/top1': 0.75, 'accuracy/top5': 0.9, 'f1': 0.7}


def card(model, folder, **options):
    """Save ``model``; return the YAML and the Markdown of its card, and the report."""
    report = mmesbnn.save_pretrained(model, folder, **options)
    empty, head, body = (folder / 'README.md').read_text().split('---\n', 2)
    assert empty == ''
    return yaml.safe_load(head), body, report


@pytest.fixture
def of_backbone(tmp_path):
    model = backbone()
    return model, *card(model, tmp_path / 'es-net', config=BACKBONE, input_shape=SHAPE)


def test_size_and_operations_are_those_that_are_measured(of_backbone, tmp_path):
    model, _, body, _ = of_backbone
    size = (tmp_path / 'es-net' / 'model.safetensors').stat().st_size
    full = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    assert f'{size} bytes' in body and f'{full} bytes, {full / size:.1f} times as many' in body
    total = count_ops(model, SHAPE).total
    assert f'{total["ops"] / 1e8:.4g}e8 = {readable(total["fp_macs"])} FP MACs' in body
    assert f'{total["fp_params"]} real, {total["binary_params"]} binary' in body
    assert 'equal outputs, bit for bit' in body


def test_the_verdict_is_that_of_check_binary(of_backbone):
    model, _, body, _ = of_backbone
    assert check_binary(model, torch.randn(1, *SHAPE)) == []
    count = count_ops(model, SHAPE).total['binary_layers']
    assert f'binary: all {count} binary layers multiply signs with signs' in body


def test_a_network_that_is_not_binary_is_called_so(tmp_path):
    conv = BinaryConv2d(8, 8, 3, sign=dict(type='hard_tanh', zero=0))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), conv)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _, body, _ = card(trained(model), tmp_path / 'net', input_shape=SHAPE)
    assert '| not binary: 2: inputs take values other than +-1' in body


def test_the_head_of_a_backbone(of_backbone):
    _, head, body, _ = of_backbone
    assert head['library_name'] == 'mmesbnn'
    assert head['pipeline_tag'] == 'image-feature-extraction'
    assert 'model-index' not in head and 'license' not in head
    assert body.splitlines()[1] == '# es-net'
    assert "pip install 'mmesbnn[hub]'" in body
    assert '# (N, 3, 16, 16) -> (N, 64, 8, 8)' in body


def test_metrics_are_in_the_form_of_the_hub(tmp_path):
    pytest.importorskip('mmpretrain')
    options = dict(config=classifier_config(), metrics=METRICS, dataset='mnist', name='me/digits')
    head, body, _ = card(classifier(), tmp_path / 'net', **options)
    assert head['pipeline_tag'] == 'image-classification'
    assert head['datasets'] == ['mnist'] and head['metrics'] == ['accuracy', 'f1']
    assert 'Given by the author, on mnist' in body and '| accuracy/top1 | 0.75 |' in body
    library = pytest.importorskip('huggingface_hub')
    read = library.ModelCard.load(tmp_path / 'net' / 'README.md')
    results = read.data.eval_results
    assert read.data.model_name == 'me/digits'
    assert {r.metric_name: r.metric_value for r in results} == METRICS
    assert {(r.task_type, r.dataset_type) for r in results} == {('image-classification', 'mnist')}
    assert [r.metric_type for r in results] == ['accuracy', 'accuracy', 'f1']


@pytest.mark.parametrize(
    ('option', 'order'), [('to_rgb', 'RGB'), ('bgr_to_rgb', 'RGB'), ('unknown', 'BGR')]
)
def test_a_classifiers_card_says_how_images_are_prepared(tmp_path, option, order):
    pytest.importorskip('mmpretrain')
    config = classifier_config()
    preprocessor = config['data_preprocessor']
    preprocessor[option] = preprocessor.pop('to_rgb')
    _, body, _ = card(classifier(), tmp_path / 'net', config=config)
    mean = [127.5] * 3
    assert (
        f'are {order} from 0 to 255, normalized as `(image - mean) / std` with mean {mean}' in body
    )
    assert "pip install 'mmesbnn[cls,hub]'" in body
    assert '(N, 3, 16, 20) -> (N, 3)' in body  # the size of the config's test images


@pytest.mark.slow
def test_the_card_of_a_detector(tmp_path):
    pytest.importorskip('mmdet')
    config = load_config(ROOT / 'configs' / 'demo' / 'es_bnext_fcos_mini_voc.py')
    model = trained(build_model(config))
    head, body, _ = card(model, tmp_path / 'net', config=config, input_shape=(3, 64, 64))
    assert head['pipeline_tag'] == 'object-detection'
    assert 'A detector (FCOS) with one bit per binary weight' in body
    assert "pip install 'mmesbnn[det,hub]'" in body


@pytest.mark.slow
def test_the_card_of_a_two_stage_detector(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    name = 'faster-rcnn_es-bnext-tiny-fpn_4xb4-24e_voc0712.py'
    config = load_config(ROOT / 'configs' / 'bnext_det' / name)
    arch = dict(channels=[16, 16, 16, 32, 64, 64], depths=[1, 1, 1, 1, 1])
    config.model.backbone.update(init_cfg=None, arch=arch)
    config.model.neck.in_channels = [16, 32, 64, 64]
    model = set_temperature(build_model(config), 0.0).eval()
    shape = (3, 64, 64)
    _, body, _ = card(model, tmp_path / 'net', config=config, input_shape=shape)
    assert '| loaded again | equal outputs, bit for bit |' in body
    assert 'binary: all 23 binary layers' in body
    assert 'outputs = model(images, samples)  # samples: a DetDataSample of mmdet' in body
    _, arguments = most_regions(model, shape)
    assert count_ops(model, shape, **arguments).formula() in body


@pytest.mark.parametrize('mean', [[127.5], [127.5] * 3], ids=len)
def test_the_card_of_a_network_for_grey_images(tmp_path, mean):
    pytest.importorskip('mmpretrain')
    config = classifier_config()
    config.model.backbone.in_channels = 1
    config.data_preprocessor.update(mean=mean, std=mean)
    _, body, _ = card(classifier(config), tmp_path / 'net', config=config)
    assert '(N, 1, 16, 20) -> (N, 3)' in body and 'RGB' not in body
    # the numbers of three channels do not fit
    assert ('`images` are grey from 0 to 255' in body) == (len(mean) == 1)


def test_the_lines_in_the_card_load_the_network(of_backbone, tmp_path, monkeypatch):
    model, _, body, _ = of_backbone
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r'```python\n(.*?)```', body, re.DOTALL)
    images = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    names = {'images': images}
    exec(code, names)
    assert torch.equal(names['outputs'][0], outputs(model)[0])


def test_a_name_or_a_license_cannot_break_the_card(tmp_path):
    name = "x'y\n---\n# \u00e9"
    options = dict(config=BACKBONE, input_shape=SHAPE, name=name)
    model = backbone()
    head, body, _ = card(model, tmp_path / 'net', metrics=METRICS, dataset='a/b', **options)
    assert head['model-index'][0]['name'] == "x'y --- # \u00e9"
    assert [line for line in body.splitlines() if line == '---'] == []
    with pytest.raises(ValueError, match=r"license='a\\n---' must be a license of the hub"):
        card(model, tmp_path / 'net', license='a\n---', **options)


def test_a_name_of_a_metric_cannot_break_the_card(tmp_path):
    options = dict(config=BACKBONE, input_shape=SHAPE, dataset='mnist')
    _, body, _ = card(backbone(), tmp_path / 'net', metrics={'a|b\n# c': 0.5}, **options)
    assert body.splitlines()[-1] == r'| a\|b # c | 0.5 |'


def test_metrics_can_be_numbers_of_numpy(tmp_path):
    options = dict(config=BACKBONE, input_shape=SHAPE, dataset='mnist')
    metrics = {np.str_('a'): np.float64(0.75), 'b': np.float32(0.5), 'c': np.int64(3)}
    head, body, _ = card(backbone(), tmp_path / 'net', metrics=metrics, **options)
    found = head['model-index'][0]['results'][0]['metrics']
    assert {entry['name']: entry['value'] for entry in found} == {'a': 0.75, 'b': 0.5, 'c': 3}
    assert body.splitlines()[-3:] == ['| a | 0.75 |', '| b | 0.5 |', '| c | 3 |']


def test_metrics_and_dataset_need_each_other(tmp_path):
    model = backbone()
    with pytest.raises(ValueError, match=r"metrics=\{'accuracy': 0.5\} needs dataset="):
        mmesbnn.save_pretrained(model, tmp_path / 'net', metrics={'accuracy': 0.5})
    with pytest.raises(ValueError, match=r"dataset='mnist' needs metrics="):
        mmesbnn.save_pretrained(model, tmp_path / 'net', dataset='mnist')
    with pytest.raises(ValueError, match=r'metrics=.*ud800.* must be a dict of names and numbers'):
        mmesbnn.save_pretrained(model, tmp_path / 'net', metrics={'a\ud800': 1}, dataset='a')
    with pytest.raises(ValueError, match=r'metrics=.*nan.* must be a dict of names and numbers'):
        mmesbnn.save_pretrained(
            model, tmp_path / 'net', dataset='mnist', metrics={'accuracy': float('nan')}
        )


def test_a_shape_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(PretrainedError, match=r'BNext cannot process .*input_shape=\(4, 16, 16\)'):
        mmesbnn.save_pretrained(
            backbone(), tmp_path / 'net', config=BACKBONE, input_shape=(4, 16, 16)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_network_is_noticed(tmp_path):
    wrong = dict(BACKBONE, sign_zero=0, out_indices=(0, 1))
    with pytest.warns(UserWarning, match='gives other outputs: does its config describe it'):
        _, body, _ = card(backbone(), tmp_path / 'net', config=wrong, input_shape=SHAPE)
    assert 'bit for bit' not in body
    with pytest.warns(UserWarning, match=r'net: from_pretrained will not load it: .*tau'):
        card(backbone(), tmp_path / 'net', config=dict(BACKBONE, tau=3), input_shape=SHAPE)


def test_half_precision_is_said(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _, body, report = card(
            backbone(), tmp_path / 'net', config=BACKBONE, input_shape=SHAPE, half=True
        )
    assert f'half precision, by {report.rounding:.2g} of a value at most' in body
    assert 'bit for bit' not in body
