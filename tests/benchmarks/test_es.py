"""The parts of the comparison of forms, on figures that are made up."""

import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch
from es import training
from es.drawing import along, line_labels
from es.forms import BASELINE, FAMILIES, Form, Setting, form_of
from es.networks import Network
from es.presets import PRESETS
from es.records import Records
from es.summary import summarise, table
from es.training import check_costs, diversity
from paired import paired_difference

from mmesbnn.binary import TiledBatchNorm2d
from mmesbnn.models.layers import SqueezeExcite

TINY = Setting(width=16, depth=2, size=16, iters=2, batch=4)


def record(form, seed, loss, setting=TINY):
    return dict(
        asdict(setting),
        form=form,
        seed=seed,
        ops=1e6,
        fit=dict(loss=loss, score=100 * (1 - loss)),
        test=dict(loss=2 * loss, score=50 * (1 - loss)),
    )


def records_of(path, *rows):
    records = Records(path)
    for row in rows:
        records.add(row)
    return records


@pytest.mark.parametrize(
    ('text', 'form'),
    [
        ('1x1', BASELINE),
        ('2x1', Form(tau=2)),
        ('2x2+signs+mean', Form(2, 2, 'signs', mean=True)),
        ('4x1+balanced', Form(4, 1, 'balanced')),
        ('1x1+real', Form(real=True)),
        ('2x1+balanced+full', Form(2, init='balanced', full=True)),
        ('4x1+even', Form(4, even=True)),
    ],
)
def test_forms_are_read_as_they_are_written(text, form):
    assert form_of(text) == form and str(form) == text


@pytest.mark.parametrize('text', ['2', '2x', '2x1+sings', 'x', '2x1x1', '0x1'])
def test_what_is_no_form_is_refused(text):
    with pytest.raises((ValueError, Exception), match='must be'):
        form_of(text)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('task', ['regions', 'denoising'])
def test_networks_of_all_families_compute_both_tasks(family, task):
    setting = replace(TINY, family=family, task=task, width=32)
    shape = (2, 100) if task == 'regions' else (2, 3, 16, 16)
    for form in ('1x1', '2x1', '2x1+mean'):
        network = Network(setting, form_of(form), 100)
        assert network(torch.randn(2, 3, 16, 16)).shape == shape


@pytest.mark.parametrize('family', FAMILIES)
def test_forms_cost_the_same_to_the_last_operation(family):
    setting = replace(TINY, family=family, width=32)
    check_costs(setting, [form_of(x) for x in ('2x1', '2x1+signs+mean')])


def test_gates_of_full_width_cost_more_unless_their_hidden_layer_is_smaller():
    setting = replace(TINY, family='BNext', width=32)
    check_costs(setting, [form_of('2x1+even'), form_of('4x1+balanced+even')])
    plain, full = (
        training.costs(Network(setting, form_of(x), 9), setting) for x in ('2x1', '2x1+full')
    )
    assert full['fp_macs'] > plain['fp_macs'] and full['bops'] == plain['bops']
    even = Network(setting, form_of('2x1+even'), 9).backbone.stages
    gates = [x for x in even.modules() if isinstance(x, SqueezeExcite)]
    assert gates and {(x.excite.in_channels, x.excite.out_channels) for x in gates} == {(2, 64)}
    with pytest.raises(ValueError, match='is of BNext, not of ReActNet'):
        Network(TINY, form_of('2x1+full'), 9)


@pytest.mark.slow
@pytest.mark.parametrize('preset', PRESETS)
def test_presets_compare_forms_of_equal_cost(preset):
    for study in PRESETS[preset].studies:
        check_costs(study.setting, study.forms)
        assert len(set(study.trainings())) == (1 + len(study.forms)) * len(study.seeds)


def test_a_form_that_costs_more_is_refused(monkeypatch):
    counted = itertools.count()
    monkeypatch.setattr(training, 'costs', lambda *_: dict(ops=next(counted)))
    with pytest.raises(RuntimeError, match='2x1 costs'):
        check_costs(TINY, [form_of('2x1')])


def test_copies_start_as_the_form_says():
    for init in ('alike', 'signs', 'balanced'):
        torch.manual_seed(0)
        network = Network(replace(TINY, width=32), Form(tau=2, init=init), 10)
        for norm in network.backbone.stages.modules():
            if not isinstance(norm, TiledBatchNorm2d) or norm.copies == 1:
                continue
            gains = norm.weight.detach().view(4, -1)
            assert (gains.abs() == 1).all()
            negative = (gains < 0).sum(0)
            if init == 'alike':
                assert (negative == 0).all()
            elif init == 'balanced':
                assert (negative == 2).all()
            else:
                assert len(negative.unique()) > 2


def test_equal_copies_are_seen_as_alike_and_signs_set_them_apart():
    x = torch.randn(64, 3, 16, 16)
    setting = replace(TINY, width=32, depth=6)
    found = {}
    for init in ('alike', 'signs'):
        torch.manual_seed(0)
        found[init] = diversity(Network(setting, Form(tau=2, init=init), 10), x)
        assert len(found[init]['rank']) == 6
    assert found['alike']['alike'][-1] > 0.6 > 0.3 > found['signs']['alike'][-1]
    assert found['signs']['rank'][-1] > 1.3 * found['alike']['rank'][-1]


def test_records_are_lines_and_are_found_again(tmp_path):
    path = tmp_path / 'a.jsonl'
    records_of(path, record('1x1', 0, 0.5), record('2x1', 0, 0.4))
    assert [json.loads(x)['form'] for x in path.read_text().splitlines()] == ['1x1', '2x1']
    again = Records(path)
    assert again.get(TINY, form_of('2x1'), 0)['fit']['loss'] == 0.4
    assert again.get(TINY, form_of('2x1'), 1) is None
    assert again.get(replace(TINY, iters=3), form_of('2x1'), 0) is None


def test_two_processes_keep_each_others_records(tmp_path):
    path = tmp_path / 'a.jsonl'
    one, other = Records(path), Records(path)
    one.add(record('1x1', 0, 0.5))
    other.add(record('2x1', 0, 0.4))
    assert len(Records(path).found) == 2


def test_gains_are_paired_by_seed_and_more_is_better(tmp_path):
    losses = {'1x1': [0.5, 0.6, 0.7, 0.9], '2x1': [0.4, 0.45, 0.65]}
    rows = [record(form, s, x) for form, xs in losses.items() for s, x in enumerate(xs)]
    baseline, row = summarise(records_of(tmp_path / 'a.jsonl', *rows))
    assert not baseline.gains and baseline.seeds == (0, 1, 2, 3)
    assert row.seeds == (0, 1, 2)
    expected = paired_difference(losses['1x1'][:3], losses['2x1'])
    assert row.gains['capacity'] == expected and expected.mean > 0
    assert row.gains['score'].mean == pytest.approx(100 * expected.mean)
    assert row.gains['held_out'].mean == pytest.approx(50 * expected.mean)
    assert expected.in_words(4) in table([baseline, row])


def test_intervals_grow_with_the_number_of_forms(tmp_path):
    losses = {'1x1': [0.5, 0.6, 0.7], '2x1': [0.4, 0.45, 0.65], '4x1': [0.6, 0.7, 0.8]}
    rows = [record(form, s, x) for form, xs in losses.items() for s, x in enumerate(xs)]
    # one of a single seed has no interval, and counts for nothing
    rows.append(record('2x2', 0, 0.3))
    found = {str(x.form): x for x in summarise(records_of(tmp_path / 'a.jsonl', *rows))}
    expected = paired_difference(losses['1x1'], losses['2x1'], 0.975)
    assert found['2x1'].gains['capacity'] == expected
    assert found['2x2'].gains['capacity'].pairs == 1


def test_lines_of_the_picture_have_several_places(tmp_path):
    wide = replace(TINY, width=32)
    rows = summarise(
        records_of(
            tmp_path / 'a.jsonl',
            *(record(form, 0, 0.5, setting) for form in ('1x1', '2x1') for setting in (TINY, wide)),
            record('4x1', 0, 0.5),
        )
    )
    compared = [row for row in rows if row.gains]
    assert [sorted(x) for x in along('width', compared).values()] == [[16, 32]]
    assert [sorted(x) for x in along('tau', compared).values()] == [[2, 4]]
    assert along('iters', compared) == {}


def test_labels_of_lines_name_what_differs():
    wide, form = replace(TINY, width=32), form_of('2x1+balanced')
    alone = f'{TINY.family} {TINY.task} balanced'
    assert line_labels('width', [(TINY, form)]) == [alone]
    assert line_labels('tau', [(TINY, form), (wide, form)]) == [
        f'{alone}, {TINY.width} channels, {TINY.depth} units',
        f'{alone}, 32 channels, {TINY.depth} units',
    ]
