"""Metafiles state the true values of the networks."""

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, DefaultScope

from mmesbnn.analysis import count_ops
from mmesbnn.models.classifiers import student_config
from tests.configs.test_recipes import CONFIGS, RECIPES

FAMILIES = ('bnext', 'binary_vit', 'reactnet')
ENTRIES = [
    entry for family in FAMILIES for entry in load(CONFIGS / family / 'metafile.yml')['Models']
]
#: OPs of the published networks, in 1e8.
OPERATIONS = {
    'bnext-tiny_8xb64_in1k': 0.886,
    'bnext-tiny-int8_8xb64_in1k': 0.769,
    'bnext-small_8xb64_in1k': 1.905,
    'bnext-middle_8xb64_in1k': 3.381,
    'bnext-large_8xb16_in1k': 8.543,
    'bnext-18_8xb64_in1k': 1.643,
    'reactnet-a_stage2_8xb32_in1k': 0.871,
    'reactnet-18_stage2_8xb64_in1k': 1.640,
    'birealnet-18_8xb64_in1k': 1.640,
    'binary-vit-small_8xb64_in1k': 0.699,
    'binary-vit-small-some-fp_8xb64_in1k': 1.457,
}


def build(name):
    cfg = Config.fromfile(CONFIGS.parent / name)
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        return MODELS.build(student_config(cfg.model))


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
def test_parameters_are_those_of_the_network(entry):
    model = build(entry['Config'])
    count = sum(parameter.numel() for parameter in model.parameters())
    assert entry['Metadata']['Parameters'] == count


def is_baseline(entry):
    return not entry['Name'].startswith('es')


@pytest.mark.slow
@pytest.mark.parametrize(
    'entry', list(filter(is_baseline, ENTRIES)), ids=lambda entry: entry['Name']
)
def test_operations_are_those_of_the_network(entry):
    size = 32 if 'cifar' in entry['Name'] else 224
    total = count_ops(build(entry['Config']), (3, size, size)).total
    assert entry['Metadata']['FLOPs'] == total['ops']
    if entry['Name'] in OPERATIONS:
        expected = OPERATIONS[entry['Name']] * 1e8
        assert total['ops'] == pytest.approx(expected, rel=0.01)


def test_every_published_network_is_listed():
    assert set(OPERATIONS) <= {entry['Name'] for entry in ENTRIES}


@pytest.mark.parametrize(
    'entry', [e for e in ENTRIES if not is_baseline(e)], ids=lambda entry: entry['Name']
)
def test_es_costs_what_the_baseline_costs(entry):
    # the multiplications of ES networks are tested with their backbones
    baseline = entry['Name'].removeprefix('es-all-').removeprefix('es-')
    baseline = {'es_bnext_tiny': 'bnext-tiny_8xb64_in1k'}.get(baseline, baseline)
    (other,) = (e for e in ENTRIES if e['Name'] == baseline)
    assert entry['Metadata']['FLOPs'] == other['Metadata']['FLOPs']


def test_every_finished_network_is_listed():
    listed = {entry['Config'] for entry in ENTRIES}
    expected = {f'configs/{name}' for name in RECIPES if '_stage1_' not in name}
    assert listed == expected
