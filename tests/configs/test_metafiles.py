"""Metafiles state the true values of the networks."""

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import MODELS, DefaultScope

from mmesbnn.analysis import count_ops
from mmesbnn.models.classifiers import student_config
from mmesbnn.version import __version__
from tests.configs.test_recipes import CONFIGS, RECIPES

FAMILIES = ('bnext', 'binary_vit', 'reactnet')
#: All models of the index, with the collection that each belongs to.
MODELS_AND_COLLECTIONS = [
    (model, collection)
    for name in load(CONFIGS.parent / 'model-index.yml')['Import']
    for content in [load(CONFIGS.parent / name)]
    for model in content['Models']
    for collection in content['Collections']
    if collection['Name'] == model['In Collection']
]
ES_PAPER = 'https://arxiv.org/abs/2503.23709'
PAPERS = {
    'BNext': '2211.12933',
    'BinaryViT': '2306.16678',
    'ReActNet': '2003.03488',
    'Bi-Real Net': '1808.00278',
    'BI-DiffSR': '2406.05723',
    'BiDet': '2003.03961',
    'BNext detectors': '2211.12933',
}
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


def test_every_model_has_a_collection_that_exists():
    models = [
        model['Name']
        for name in load(CONFIGS.parent / 'model-index.yml')['Import']
        for model in load(CONFIGS.parent / name)['Models']
    ]
    assert [model['Name'] for model, _ in MODELS_AND_COLLECTIONS] == models
    assert len(set(models)) == len(models)


def all_entries(test):
    decorate = pytest.mark.parametrize(
        ('model', 'collection'),
        MODELS_AND_COLLECTIONS,
        ids=[model['Name'] for model, _ in MODELS_AND_COLLECTIONS],
    )
    return decorate(test)


@all_entries
def test_the_paper_is_that_of_the_method(model, collection):
    is_es = collection['Name'].startswith('ES-')
    cfg = Config.fromfile(CONFIGS.parent / model['Config'])
    assert is_es == (max(find_all(cfg.model, 'tau'), default=1) > 1)
    techniques = collection['Metadata']['Architecture']
    assert is_es == ('Expanding and Shrinking' in techniques)
    number = PAPERS[collection['Name'].removeprefix('ES-')]
    expected = ES_PAPER if is_es else f'https://arxiv.org/abs/{number}'
    assert collection['Paper']['URL'] == expected
    assert expected in (CONFIGS.parent / collection['README']).read_text()


@all_entries
def test_the_code_exists_in_the_version(model, collection):
    code = model.get('Code') or collection['Code']
    assert (CONFIGS.parent / code['URL']).is_file()
    assert code['Version'] == f'v{__version__}'


@all_entries
def test_the_teacher_is_mentioned_if_there_is_one(model, collection):
    cfg = Config.fromfile(CONFIGS.parent / model['Config'])
    techniques = [
        *collection['Metadata']['Training Techniques'],
        *model['Metadata'].get('Training Techniques', []),
    ]
    has_teacher = any(find_all(cfg.model, 'teachers'))
    assert techniques.count('Knowledge Distillation') == has_teacher


def find_all(value, name):
    """List all values of a key in nested dictionaries and lists."""
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [found for child in value.values() for found in find_all(child, name)]
    if isinstance(value, (list, tuple)):
        return [found for child in value for found in find_all(child, name)]
    return []
