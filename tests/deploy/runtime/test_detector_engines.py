"""Both engines find the same objects; the native one runs the backbone, OpenVINO the rest."""

import dataclasses
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('openvino')

from mmesbnn import native
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.binary import BinaryConv2d
from mmesbnn.deploy import ExportError, Runner
from mmesbnn.deploy.openvino.export import export
from mmesbnn.deploy.runtime.detection_decoding import DetectionDecoding
from mmesbnn.deploy.runtime.request_pool import RequestPool
from mmesbnn.deploy.tasks.detection import DetectionExport
from mmesbnn.models.backbones import BNext
from tests.deploy.apart import apart
from tests.deploy.openvino.test_export import PREPROCESSING

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)
PACKAGE = Path(__file__).resolve().parents[3]
SIZE, CLASSES = 64, 3
FILES = ['head.bin', 'head.xml', 'manifest.json', 'model.bin', 'model.native', 'model.xml']


class Backbone(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.bnext = BNext(dict(channels=[16, 32, 32, 64]), out_indices=(0, 1), **options)

    def forward(self, x):
        return self.bnext(x)


class Head(nn.Module):
    """One box for each pixel of two maps. A convolution is binary."""

    def __init__(self, channels):
        super().__init__()
        self.binary = BinaryConv2d(channels[1], channels[1], 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(c, 4 + CLASSES, 1) for c in channels)

    def forward(self, *maps):
        rows = []
        for i, x in enumerate(maps):
            y = self.convs[i](self.binary(x) if i else x)
            height, width = y.shape[2:]
            places = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
            centre = (torch.stack(places[::-1]).float() + 0.5) * SIZE / height
            half = SIZE / height * (0.5 + y[:, 2:4].sigmoid())
            y = torch.cat([centre - half, centre + half, y[:, 4:].sigmoid()], 1)
            rows.append(y.flatten(2).transpose(1, 2))
        rows = torch.cat(rows, 1)
        return rows[..., :4], rows[..., 4:]


class Detector(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x):
        return self.head(*self.backbone(x))


def make_task(make_backbone=lambda: Backbone(tau=2)):
    torch.manual_seed(0)
    backbone = make_backbone()
    with torch.no_grad():
        channels = [x.shape[1] for x in backbone.eval()(torch.zeros(1, 3, SIZE, SIZE))]
    model = lifelike(Detector(backbone, Head(channels)), torch.randn(2, 3, SIZE, SIZE))
    images = apart(model, lambda: torch.rand(2, 3, SIZE, SIZE))
    return DetectionExport(
        graph=model,
        input_names=('image',),
        output_names=('boxes', 'scores'),
        preprocessing=PREPROCESSING,
        classes=('cat', 'dog', 'eel'),
        decoding=DetectionDecoding(score_thr=0.6, iou_thr=0.5, max_per_image=50),
        images=images,
        source='noise',
        parts=(model.backbone, model.head),
    )


@pytest.fixture(scope='module')
def task():
    return make_task()


@pytest.fixture(scope='module')
def folder(task, tmp_path_factory):
    out = tmp_path_factory.mktemp('detector') / 'net'
    report = export(task, out, dynamic_batch=True)
    assert '(the backbone)' in report.native and '(neck and heads)' in report.native
    assert len(report.native_agreements) == 2 * native.available()
    return out


def pictures(count=5):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (SIZE, SIZE, 3), np.uint8) for _ in range(count)]


def check_equal(ours, theirs):
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys() and len(one['scores']) > 3
        for name in ('bboxes', 'scores', 'labels'):
            np.testing.assert_array_equal(one[name], two[name])


def test_the_folder_and_its_manifest(folder):
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, 'report.json'])
    content = json.loads((folder / 'manifest.json').read_text())
    assert sorted(content['files']) == sorted(set(FILES) - {'manifest.json'})
    assert [one['shape'] for one in content['maps']] == [[1, 32, 32, 32], [1, 64, 16, 16]]


@needs_library
def test_outputs_of_both_engines_are_those_of_torch(folder, task):
    with torch.no_grad():
        expected = [y.numpy() for y in task.graph(task.images)]
    for engine in ('native', 'openvino'):
        found = Runner(folder, engine=engine, threads=1).infer(task.images.numpy())
        for y, name in zip(expected, ('boxes', 'scores')):
            np.testing.assert_allclose(found[name], y, rtol=1e-4, atol=1e-4)


@needs_library
def test_the_engine_and_its_reason(folder):
    runner, other = Runner(folder), Runner(folder, engine='openvino')
    assert (runner.engine, other.engine) == ('native', 'openvino')
    assert runner.engine_reason == (
        'the export has model.native for the backbone; OpenVINO runs neck and heads'
    )
    assert other.engine_reason == "engine='openvino' was requested"


@needs_library
@pytest.mark.parametrize('threads', [1, 2, 3])
def test_batches_and_streams_give_what_single_images_give(folder, threads, tmp_path):
    alone = Runner(folder, engine='native', threads=1)(pictures())
    runner = Runner(folder, engine='native', threads=threads)
    check_equal(runner(pictures(), batch_size=5), alone)
    for jobs in (None, 1, 2):
        check_equal(list(runner.stream(pictures(), jobs=jobs)), alone)
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    results = list(runner.stream([*pictures(3), broken, *pictures(1)], return_errors=True))
    assert 'broken.png' in str(results.pop(3))
    check_equal(results, [*alone[:3], alone[0]])


@needs_library
def test_threads_share_a_runner(folder):
    runner = Runner(folder, engine='native', threads=2)
    alone = runner(pictures())
    with ThreadPoolExecutor(4) as pool:
        check_equal(list(pool.map(runner, pictures() * 4)), alone * 4)


@needs_library
@pytest.mark.parametrize(('threads', 'hints'), [(1, {'LATENCY'}), (2, {'LATENCY', 'THROUGHPUT'})])
def test_neck_and_heads_use_as_many_threads_as_the_backbone(folder, monkeypatch, threads, hints):
    runner = Runner(folder, engine='native', threads=threads)
    seen, infer = [], RequestPool.infer

    def spied(self, arrays):
        seen.append((self, [array.shape for array in arrays]))
        return infer(self, arrays)

    monkeypatch.setattr(RequestPool, 'infer', spied)
    runner(pictures(3), batch_size=3)
    assert [shapes for _, shapes in seen] == [[(1, 32, 32, 32), (1, 64, 16, 16)]] * 3
    pools = {hint: runner._network.engine._head.pool(hint) for hint in hints}
    assert {id(pool) for pool, _ in seen} == {id(pool) for pool in pools.values()}
    for hint, pool in pools.items():
        streams = pool.network.get_property('NUM_STREAMS')
        assert streams == (threads if hint == 'THROUGHPUT' else 1)
        assert pool.network.get_property('INFERENCE_NUM_THREADS') == threads


@needs_library
def test_inputs_are_checked(folder):
    runner = Runner(folder, engine='native')
    with pytest.raises(ValueError, match=r'image has shape \[1, 3, 32, 64\]'):
        runner.infer(np.zeros((1, 3, 32, 64), np.float32))


@needs_library
def test_half_precision_and_one_image(task, tmp_path):
    report = export(task, tmp_path / 'net', half=True)
    for one in report.native_agreements:
        assert 1e-6 < one.error < 0.1
    runner = Runner(tmp_path / 'net', engine='native')
    assert runner.manifest.image_shape == (1, 3, SIZE, SIZE)
    assert len(runner(pictures(3), batch_size=3)) == 3


def changed(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    content = json.loads((copy / 'manifest.json').read_text())
    change(content)
    (copy / 'manifest.json').write_text(json.dumps(content))
    return copy


@needs_library
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c['maps'].pop(), r'model.native: .* gives \[32, 32, 32\], '),
        (lambda c: c['maps'][0].update(shape=[1, 64, 32, 16]), 'head.xml: map0 of its inputs has'),
        (lambda c: c['maps'][0].update(shape=[2, 32, 32, 32]), r'maps\[0\].shape=.*\(1, C, H, W\)'),
        (lambda c: c['maps'][0].update(shape=[1, -1, 32, 32]), r'maps\[0\].shape=.*\(1, C, H, W\)'),
        (lambda c: c.pop('maps'), 'files=.* must be without head.xml and head.bin'),
        (lambda c: c['files'].pop('head.bin'), 'files=.* must be with model.native, head.xml and'),
        (lambda c: c['files'].pop('model.native'), 'files=.* must be with model.native, head.xml'),
        (lambda c: c.update(maps=[]), 'maps='),
    ],
)  # fmt: skip
def test_contradictions_are_named(folder, tmp_path, change, message):
    with pytest.raises(ExportError, match=message):
        Runner(changed(folder, tmp_path, change), engine='native')


def test_files_that_changed_or_are_missing(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    raw = bytearray((copy / 'head.bin').read_bytes())
    raw[-1] ^= 1
    (copy / 'head.bin').write_bytes(raw)
    with pytest.raises(ExportError, match=r'head.bin: changed since the export'):
        Runner(copy)
    (copy / 'head.bin').unlink()
    with pytest.raises(ExportError, match=r'head.bin: missing from the export'):
        Runner(copy)


@needs_library
def test_a_head_of_another_network(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    for end in ('xml', 'bin'):
        shutil.copy(copy / f'model.{end}', copy / f'head.{end}')
    with pytest.raises(ExportError, match=r'head\.xml: has 1 inputs, but its manifest describes 2'):
        Runner(copy, verify=False)


def test_an_export_of_an_earlier_version(folder, tmp_path):
    def change(content):
        del content['maps']
        for name in ('model.native', 'head.xml', 'head.bin'):
            del content['files'][name]

    copy = changed(folder, tmp_path, change)
    runner = Runner(copy, threads=1)
    assert runner.engine == 'openvino'
    assert runner.engine_reason == 'the export has no model.native: see its report.json'
    check_equal(runner(pictures()), Runner(folder, engine='openvino', threads=1)(pictures()))


class Real(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)])

    def forward(self, x):
        x = self.convs[0](x)
        return x, self.convs[1](x)


class Sorted(Backbone):
    def forward(self, x):
        one, two = super().forward(x)
        return one, two.sort(1).values


@pytest.mark.parametrize(
    ('make_backbone', 'reason'),
    [
        (Real, 'no layer of the backbone is binary'),
        (lambda: Sorted(tau=2), 'no native form of TopK'),
    ],
)
def test_detectors_that_only_openvino_runs(make_backbone, reason, tmp_path):
    report = export(make_task(make_backbone), tmp_path / 'net')
    assert report.native.startswith(f'no model.native: {reason}')
    assert not (tmp_path / 'net' / 'head.xml').exists()
    runner = Runner(tmp_path / 'net')
    assert runner.engine == 'openvino'
    assert runner.engine_reason.startswith(f'the export has no model.native: {reason}')
    with pytest.raises(ExportError, match=f'cannot run it, because it has no .*: {reason}'):
        Runner(tmp_path / 'net', engine='native')


def test_only_the_form_for_openvino(task, tmp_path):
    export(task, tmp_path / 'net')  # is replaced as a whole
    report = export(task, tmp_path / 'net', with_native=False)
    assert report.native is None and not (tmp_path / 'net' / 'head.xml').exists()
    assert 'only the form for OpenVINO was requested' in Runner(tmp_path / 'net').engine_reason


@needs_library
def test_parts_of_another_network_do_not_pass(task, tmp_path):
    other = make_task()
    lifelike(other.graph, torch.randn(2, 3, SIZE, SIZE), seed=1)
    wrong = dataclasses.replace(task, parts=other.parts)
    with pytest.raises(ExportError, match='the native library disagrees with torch: '):
        export(wrong, tmp_path / 'net')
    assert not (tmp_path / 'net').exists()


@needs_library
def test_a_detector_needs_openvino_for_neck_and_heads(folder):
    code = (
        'import sys; sys.modules.update(openvino=None, torch=None)\n'
        'from mmesbnn.deploy import Runner\n'
        f'Runner({str(folder)!r})\n'
    )
    run = subprocess.run(
        [sys.executable, '-c', code], cwd=PACKAGE, capture_output=True, text=True, timeout=60
    )
    assert run.returncode and "pip install 'mmesbnn[deploy]'" in run.stderr
