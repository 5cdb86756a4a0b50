"""The parts of the comparison of speeds, and the rivals in it."""

import ctypes
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from speed import handover, limit, measuring, names
from speed.compiling import compiled
from speed.measuring import measure
from speed.tables import markdown, table

from mmesbnn import native
from mmesbnn.analysis import load_config
from mmesbnn.deploy import Runner

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def result(threads, batch, **times):
    named = {getattr(names, key): taken for key, taken in times.items()}
    first = {name: [2 * time for time in taken] for name, taken in named.items()}
    return dict(threads=threads, batch=batch, times_ms=named, first_ms=first)


def test_a_table_has_medians_per_image_and_ratios_to_the_native_engine():
    one = result(1, 1, PUBLISHED=[99, 100, 900], BITS=[3, 4, 5], NATIVE=[2, 1, 3])
    many = result(2, 16, BITS=[64, 64, 48], NATIVE=[32, 32, 32])
    other = result(1, 1, BITS=[5, 5, 5]), result(2, 16, BITS=[160, 160, 160])
    assert markdown({'`a`': [one, many], '`b`': other}).splitlines() == [
        '| network | form | 1 core, batch 1 | | 2 cores, batch 16 | |',
        '|---|---|---|---|---|---|',
        '| `a` | published style, eager | 100.0 (99.0) | 50.0 |  |  |',
        '|  | OpenVINO 1-bit | 4.0 (3.0) | 2.00 | 4.0 (3.0) | 2.00 |',
        '|  | **native 1-bit** | 2.0 (1.0) |  | 2.0 (2.0) |  |',
        '| `b` | **OpenVINO 1-bit** | 5.0 (5.0) |  | 10.0 (10.0) |  |',
    ]
    head, published, _, own = table(one).splitlines()
    assert 'native 1-bit is faster by' in head
    assert published.split()[-5:] == ['100.00', '99.00', '200.00', '50.00', 'x']
    assert own.split()[-3:] == ['2.00', '1.00', '4.00']


def test_contenders_take_turns_of_two_runs_three_times_or_for_the_given_time(monkeypatch):
    order, clock = [], [0.0]
    monkeypatch.setattr(measuring.time, 'perf_counter', lambda: clock[0])

    def run_of(name):
        def run():  # one that follows another contender takes twice as long
            clock[0] += 1 if order and order[-1] == name else 2
            order.append(name)

        return run

    runs = {name: run_of(name) for name in 'ab'}
    times = measure(runs, seconds=1)
    assert order == list('ab' + 3 * 'aabb')  # once to warm up
    assert times == {name: 3 * [(2000, 1000)] for name in 'ab'}
    assert len(measure(runs, seconds=30)['a']) == 10
    assert len(measure(runs, seconds=1e6)['a']) == 100


@pytest.mark.skipif(not native.available(), reason='needs the native library')
def test_each_instruction_set_is_a_contender(monkeypatch):
    monkeypatch.setattr(native, 'instruction_sets', lambda: ['amx', 'avx512', 'avx2', 'portable'])
    forms = {'native 1-bit': 'amx', 'native 1-bit, avx512': 'avx512', 'native 1-bit, avx2': 'avx2'}
    assert names.native_forms() == {**forms, 'native 1-bit, portable': 'portable'}
    assert names.native_forms(avx2=True) == {
        'native 1-bit': 'avx2',
        'native 1-bit, portable': 'portable',
    }
    assert set(names.contenders()) - set(names.contenders(avx2=True)) == {
        'native 1-bit, avx512',
        'native 1-bit, avx2',
        names.ONNX,
    }


def test_a_network_is_loaded_and_run_with_its_instruction_set(monkeypatch):
    forms = pytest.importorskip('speed.forms')
    used = []
    monkeypatch.setattr(native, 'use_instruction_set', used.append)

    def fail():
        used.append('run')
        raise ValueError

    def make():
        used.append('make')
        return fail

    run = forms.with_instruction_set(make, 'avx2', usual='avx512')
    with pytest.raises(ValueError):
        run()
    assert used == ['avx2', 'make', 'avx512', 'avx2', 'run', 'avx512']
    # nothing is switched for the usual one, which would count as a part of its time
    assert forms.with_instruction_set(make, 'avx2', usual='avx2') is fail


def test_a_contender_without_its_package_is_left_out(monkeypatch):
    (rival, _) = names.INT8_RIVALS
    monkeypatch.setitem(sys.modules, 'nncf', None)
    assert names.missing(rival) == (
        'MobileNetV3-Large, OpenVINO int8 needs nncf, which is not installed: '
        "pip install 'mmesbnn[bench]'"
    )
    assert names.missing(names.PUBLISHED) is None


def test_crops_are_parts_of_photographs():
    pytest.importorskip('skimage')
    rivals = pytest.importorskip('speed.rivals')
    mean, std = torch.full((3, 1, 1), 10.0), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    crops = rivals.photograph_crops((3, 200, 300), mean, std)
    photograph = rivals.load_photograph(rivals.PHOTOGRAPHS[0]).float()
    # a square photograph of 512 pixels has two rows of one image
    assert torch.equal(crops[1] * std + mean, photograph[:, 200:400, :300])
    assert len(crops) > 40


@pytest.mark.slow
def test_int8_rivals_run_in_int8():
    for package in ('openvino', 'nncf', 'skimage', 'sklearn', 'mmpretrain'):
        pytest.importorskip(package)
    from speed.forms import compile_graph, float_graph
    from speed.rivals import int8_graph, photograph_crops, rival

    shape = (3, 224, 224)
    for name in names.RIVALS.values():
        model = rival(name, shape)
        assert all((p != 0).all() for key, p in model.named_parameters() if 'bias' in key)
        norm = model.data_preprocessor
        x = photograph_crops(shape, norm.mean, norm.std)[:2].numpy()
        outputs = []
        for graph in (float_graph(model, shape), int8_graph(name, shape)):
            graph.reshape([2, *shape])
            compiled = compile_graph(graph, 1)
            outputs.append(compiled([x])[0])
        precisions = {
            node.get_rt_info()['runtimePrecision'].astype(str)
            for node in compiled.get_runtime_model().get_ops()
            if node.get_rt_info()['layerType'].astype(str) == 'Convolution'
        }
        assert precisions and precisions <= {'i8', 'u8'}, precisions
        error = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
        print('relative error', error)
        assert 0 < error < 0.5, error


def test_a_photograph_fills_the_input_of_a_detector():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    pytest.importorskip('openvino')
    detector = pytest.importorskip('speed.detector')
    for height, width in ((300, 300), (600, 1000), (600, 1200), (96, 30)):
        image = detector.fitting_photograph(height, width)
        assert image.shape[0] / image.shape[1] == pytest.approx(height / width, rel=0.01)
        assert image.shape[0] == 400 or image.shape[1] == 600  # no smaller than necessary
        assert image.dtype == np.uint8 and image.std() > 20


def test_all_forms_of_a_detector_find_the_same(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    pytest.importorskip('openvino')
    pytest.importorskip('skimage')
    from speed.detector import CANDIDATES, Detector

    cfg = load_config(CONFIGS / 'demo' / 'es_bnext_fcos_mini_voc.py')
    forms = names.native_forms()
    detector = Detector(cfg, tmp_path, forms)
    runner = Runner(detector.export, threads=1)
    scores = runner.infer(runner.preprocess(detector.image)[0][None])['scores']
    threshold = runner.manifest.decoding.score_thr
    assert (scores >= threshold).sum() == pytest.approx(CANDIDATES, abs=3)
    (theirs,) = detector.make(names.PUBLISHED, 1, 1)()
    best = theirs.pred_instances.scores.max().item()
    assert len(theirs.pred_instances) == pytest.approx(detector.boxes, abs=2)
    for name in (names.BITS, *forms):
        ours = detector.make(name, 1, 2)()
        assert len(ours) == 2
        assert all(found['scores'].max() == pytest.approx(best, rel=0.02) for found in ours)
    assert detector.make(names.PUBLISHED, 1, 16) is None


def test_a_cache_line_takes_time_from_core_to_core(monkeypatch):
    if not hasattr(os, 'sched_getaffinity'):
        pytest.skip('needs Linux')
    cores = os.sched_getaffinity(0)
    taken = handover.handover_ns()
    assert os.sched_getaffinity(0) == cores
    if taken is None:
        assert len(cores) == 1 or handover._function() is None
    else:
        assert taken > 1  # more than a few cycles
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0})
    assert handover.handover_ns() is None


def test_loops_of_the_limit_count_bits(tmp_path):
    loops = compiled(limit.SOURCE, tmp_path)
    if loops is None:
        pytest.skip('no C compiler')
    words = np.random.default_rng(0).integers(0, 2**63, (5, 512), np.uint64)

    def counted(name, *arrays):
        function = getattr(loops, name)
        function.argtypes = [*[ctypes.c_void_p] * len(arrays), ctypes.c_long]
        function.restype = ctypes.c_uint64
        return function(*(x.ctypes.data for x in arrays), 1)

    expected = np.bitwise_count(words[0] ^ words[1:]).sum()
    assert counted('plain', words[0].copy(), words[1:].copy()) == expected
    if hasattr(loops, 'table'):  # the processor has AVX2
        x, w = words[0].copy(), words[1:] & 0x0F0F0F0F0F0F0F0F
        rows = x.view(np.uint8)[:256].reshape(4, 64)
        rows = np.stack([rows & 15, rows >> 4], -1).reshape(4, 1, 128, 1)
        kernels = w.reshape(-1).view(np.uint8)[:8192].reshape(1, 2, 128, 32)
        expected = np.bitwise_count(rows ^ kernels).sum(dtype=np.uint64)
        assert counted('table', x, w, limit._tables()) == expected
