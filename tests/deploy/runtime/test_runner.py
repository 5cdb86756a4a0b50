"""Exports run on images, without torch."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmesbnn.deploy import ExportError, ImageError, Runner
from mmesbnn.deploy.runtime.images import resize
from tests.deploy.packed.nets import ROOT
from tests.real_data import photograph

pytest.importorskip('openvino')

from mmesbnn.deploy.runtime.network import Network
from tests.deploy import exports


def crops(count, size=(40, 50)):
    """Return different crops of a photograph."""
    return [photograph(0)[9 * i :][: size[0], 5 * i :][:, : size[1]] for i in range(count)]


def as_input(image, size=(16, 16)):
    """Return the input that the exports' preprocessing makes."""
    x = resize(image, size).astype(np.float32)
    x = (x - np.float32([120, 110, 100])) / np.float32([60, 50, 40])
    return torch.from_numpy(x).permute(2, 0, 1)[None]


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classifier')
    return folder, exports.write_classifier(folder)


def expected_scores(network, image):
    with torch.no_grad():
        return network(as_input(image)).softmax(1)[0].numpy()


def test_classifies_an_image(classifier, tmp_path):
    folder, network = classifier
    image = crops(1)[0]
    Image.fromarray(image).save(tmp_path / 'x.png')
    runner = Runner(folder, threads=1)
    assert runner.task == 'classification'
    for source in (image, Image.fromarray(image), tmp_path / 'x.png'):
        result = runner(source)
        np.testing.assert_allclose(
            result['pred_scores'], expected_scores(network, image), atol=1e-6
        )
        assert result['pred_label'] == result['pred_scores'].argmax()
        assert result['pred_score'] == result['pred_scores'].max()
        assert result['pred_class'] == exports.CLASSES[result['pred_label']]


@pytest.mark.parametrize('batch_size', [1, 3, 100])
def test_batches_give_what_single_images_give(classifier, batch_size):
    folder, network = classifier
    runner = Runner(folder, threads=1)
    images = crops(7)
    for results in (
        runner(images, batch_size=batch_size),
        list(runner.stream(iter(images), batch_size, jobs=2)),
    ):
        assert len(results) == 7
        for image, result in zip(images, results):
            np.testing.assert_allclose(
                result['pred_scores'], expected_scores(network, image), atol=1e-6
            )


def test_an_export_of_a_fixed_batch(tmp_path):
    network = exports.write_classifier(tmp_path, batch=4)
    runner = Runner(tmp_path, threads=1)
    images = crops(6)
    for image, result in zip(images, runner(images), strict=True):
        np.testing.assert_allclose(
            result['pred_scores'], expected_scores(network, image), atol=1e-6
        )


def test_images_are_padded_after_normalising(tmp_path):
    network = exports.write_classifier(tmp_path, size=24, pad_value=0)
    image = crops(1)[0]
    padded = torch.nn.functional.pad(as_input(image), (0, 8, 0, 8))
    with torch.no_grad():
        expected = network(padded).softmax(1)[0].numpy()
    found = Runner(tmp_path, threads=1)(image)['pred_scores']
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_first_of_a_stream_comes_before_the_last_is_read(classifier):
    read = []

    def slowly():
        for image in crops(50):
            read.append(1)
            yield image

    stream = Runner(classifier[0], threads=1).stream(slowly(), jobs=2)
    next(stream)
    assert len(read) < 50
    assert len(list(stream)) == 49


def reference_boxes(network, image, size, settings):
    """Return boxes with torchvision's suppression."""
    from torchvision.ops import batched_nms

    x = torch.zeros(1, 3, 32, 48)
    x[..., : size[0], : size[1]] = as_input(image, size)
    with torch.no_grad():
        boxes, scores = (y[0] for y in network(x))
    which, labels = (scores > settings['score_thr']).nonzero().T
    boxes, scores = boxes[which], scores[which, labels]
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
    kept = batched_nms(boxes, scores, labels, settings['iou_thr'])
    kept = kept[: settings['max_per_image']]
    scale = torch.tensor([image.shape[1] / size[1], image.shape[0] / size[0]]).repeat(2)
    return boxes[kept] * scale, scores[kept], labels[kept]


def test_detects_boxes(tmp_path):
    network = exports.write_detector(tmp_path)
    image = crops(1, (80, 100))[0]
    result = Runner(tmp_path, threads=1)(image)
    boxes, scores, labels = reference_boxes(network, image, (32, 40), exports.DETECTION)
    assert 2 < len(boxes) <= 9
    np.testing.assert_allclose(result['bboxes'], boxes, rtol=1e-4)
    np.testing.assert_allclose(result['scores'], scores, rtol=1e-4)
    assert result['labels'].tolist() == labels.tolist()
    assert result['classes'] == [exports.CLASSES[i] for i in labels]


def test_upscales(tmp_path):
    network = exports.write_denoiser(tmp_path)
    image = crops(1, (11, 14))[0]
    runner = Runner(tmp_path, threads=1)
    first, again = (runner.upscale(image, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (22, 28, 3)
    assert first.dtype == np.uint8
    assert (runner.upscale(image, seed=4) != first).any()
    assert (runner.upscale(image, seed=3, steps=2) != first).any()
    # the network's own prediction, by torch
    from mmesbnn.deploy.runtime.sampling import upscale

    def predict(sample, t):
        with torch.no_grad():
            return network(torch.from_numpy(sample), torch.full((1,), float(t))).numpy()

    expected = upscale(np.float32(image) / 255, predict, runner.manifest.decoding, seed=3)
    assert np.abs(expected * 255 - first).max() < 0.501
    with pytest.raises(ValueError, match='image by image'):
        runner.stream([image])


@pytest.mark.parametrize('size', [(11, 14), (4, 5), (8, 8)])
def test_an_upscaler_of_a_fixed_size_takes_any_image(tmp_path, size):
    network = exports.write_denoiser(tmp_path, size=16)
    image = crops(1, size)[0]
    runner = Runner(tmp_path, threads=1)
    found = runner.upscale(image, seed=0)
    assert found.shape == (2 * size[0], 2 * size[1], 3)
    from mmesbnn.deploy.runtime.sampling import tiled, upscale

    def predict(sample, t):
        assert sample.shape == (1, 6, 16, 16)
        with torch.no_grad():
            return network(torch.from_numpy(sample), torch.full((1,), float(t))).numpy()

    expected = upscale(
        np.float32(image) / 255,
        tiled(predict, (16, 16), 4, 8),
        runner.manifest.decoding,
        seed=0,
        least=(16, 16),
    )
    assert np.abs(expected * 255 - found).max() < 0.501


# what goes wrong ------------------------------------------------------------------


def test_an_image_too_large_for_the_network(tmp_path):
    exports.write_classifier(tmp_path, size=12)
    with pytest.raises(ImageError, match=r'becomes 16x16.* size=\(16, 16\) \(--shape 16 16\)'):
        Runner(tmp_path, threads=1)(crops(1))


def test_arrays_of_a_wrong_shape(classifier):
    runner = Runner(classifier[0], threads=1)
    with pytest.raises(ValueError, match=r'images has shape \[1, 3, 9, 9\]'):
        runner.infer(np.zeros((1, 3, 9, 9), np.float32))
    with pytest.raises(ValueError, match=r'2 arrays .* 1 inputs'):
        runner.infer(np.zeros(1), np.zeros(1))


@pytest.mark.parametrize('name', ['model.xml', 'model.bin'])
def test_an_ir_edited_by_hand(tmp_path, name):
    exports.write_classifier(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes() + b'\n')
    with pytest.raises(ExportError, match=rf'{name}: changed since the export'):
        Runner(tmp_path)
    assert Runner(tmp_path, verify=False)(crops(1)[0])['pred_label'] in (0, 1, 2)


def test_an_ir_that_openvino_cannot_load(tmp_path):
    exports.write_classifier(tmp_path)
    (tmp_path / 'model.xml').write_text('<net')
    with pytest.raises(ExportError, match=r'model\.xml: OpenVINO .* cannot load it'):
        Runner(tmp_path, verify=False)


def test_a_network_in_another_format(tmp_path):
    # OpenVINO chooses its reader by the content, and that of ONNX opens further files
    onnx = pytest.importorskip('onnx')
    exports.write_classifier(tmp_path)
    kind, shape = onnx.TensorProto.FLOAT, [-1, 3, 16, 16]
    ports = [
        onnx.helper.make_tensor_value_info('images', kind, ['N', *shape[1:]]),
        onnx.helper.make_tensor_value_info('logits', kind, ['N', 3]),
    ]
    weight = onnx.TensorProto(name='w', data_type=kind, dims=[768, 3], data_location=1)
    for key, value in {'location': 'more.bin', 'length': str(768 * 3 * 4)}.items():
        weight.external_data.add(key=key, value=value)
    nodes = [
        onnx.helper.make_node('Flatten', ['images'], ['flat']),
        onnx.helper.make_node('MatMul', ['flat', 'w'], ['logits']),
    ]
    graph = onnx.helper.make_graph(nodes, 'g', ports[:1], ports[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 13)])
    (tmp_path / 'model.xml').write_bytes(model.SerializeToString())
    np.ones(768 * 3, np.float32).tofile(tmp_path / 'more.bin')
    with pytest.raises(ExportError, match=r'model\.xml: not a network of OpenVINO'):
        Runner(tmp_path, verify=False)


def test_an_ir_of_another_network(tmp_path):
    exports.write_classifier(tmp_path / 'dynamic')
    exports.write_classifier(tmp_path / 'fixed', batch=4)
    exports.write_detector(tmp_path / 'detector')
    for other, words in [
        ('fixed', r'images .* has shape \[4, 3, 16, 16\], .* \[-1, 3, 16'),
        ('detector', 'has shape|has 2 outputs'),
    ]:
        folder = shutil.copytree(tmp_path / 'dynamic', tmp_path / f'as {other}')
        for name in ('model.xml', 'model.bin'):
            shutil.copy(tmp_path / other / name, folder / name)
        with pytest.raises(ExportError, match=words):
            Runner(folder, verify=False)


def test_a_manifest_cannot_ask_for_a_large_batch(tmp_path):
    exports.write_classifier(tmp_path)
    content = json.loads((tmp_path / 'manifest.json').read_text())
    content['inputs'][0]['shape'][0] = 4096  # the network's is open
    (tmp_path / 'manifest.json').write_text(json.dumps(content))
    with pytest.raises(ExportError, match=r'but \[4096, 3, 16, 16\] in its manifest'):
        Runner(tmp_path)


def test_large_images_and_results_are_refused(classifier, tmp_path):
    image = Image.fromarray(crops(1)[0])
    Runner(classifier[0], max_pixels=2000)(image)
    with pytest.raises(ImageError, match='50 x 40 pixels, more than max_pixels=1999'):
        Runner(classifier[0], max_pixels=1999)(image)
    exports.write_denoiser(tmp_path)
    runner = Runner(tmp_path, max_pixels=2000)
    with pytest.raises(ImageError, match='upscaled image has 100 x 80 pixels'):
        runner.upscale(image)


def rewrite(folder, *path, value):
    """Replace an entry of the manifest in a folder."""
    content = json.loads((folder / 'manifest.json').read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / 'manifest.json').write_text(json.dumps(content))


def test_images_that_padding_makes_large_are_refused(tmp_path):
    narrow = np.zeros((2, 4000, 3), np.uint8)
    exports.write_classifier(tmp_path / 'a', size=-1)
    rewrite(tmp_path / 'a', 'preprocessing', 'steps', value=[])
    rewrite(tmp_path / 'a', 'preprocessing', 'pad_divisor', value=4096)
    runner = Runner(tmp_path / 'a', threads=1, max_pixels=10**6)
    with pytest.raises(ImageError, match='4000 x 2 after padding has 4096 x 4096 pixels'):
        runner.preprocess(narrow)
    exports.write_denoiser(tmp_path / 'b')
    rewrite(tmp_path / 'b', 'decoding', 'multiple', value=4096)
    runner = Runner(tmp_path / 'b', threads=1, max_pixels=10**6)
    with pytest.raises(ImageError, match='image after padding has 8192 x 4096 pixels'):
        runner.upscale(narrow)


def test_an_upscaler_of_one_multiple(tmp_path):
    # tiles as large as the step between them, so neighbours do not overlap
    exports.write_denoiser(tmp_path, size=8)
    found = Runner(tmp_path, threads=1).upscale(crops(1, (11, 14))[0], seed=0, steps=2)
    assert found.shape == (22, 28, 3)


def test_large_results_are_made_of_tiles(tmp_path, monkeypatch):
    exports.write_denoiser(tmp_path)
    monkeypatch.setattr('mmesbnn.deploy.runtime.super_resolution._TILE', 32)
    runner, seen, infer = Runner(tmp_path, threads=1), [], Network.infer

    def looking(network, sample, t):
        seen.append(sample.shape)
        return infer(network, sample, t)

    monkeypatch.setattr(Network, 'infer', looking)
    runner.upscale(crops(1, (16, 16))[0], seed=0, steps=1)
    assert set(seen) == {(1, 6, 32, 32)}
    seen.clear()
    found = runner.upscale(crops(1, (40, 10))[0], seed=0, steps=1)
    assert found.shape == (80, 20, 3)
    assert set(seen) == {(1, 6, 32, 24)}


def test_a_stream_goes_on_after_a_damaged_image(classifier, tmp_path):
    runner = Runner(classifier[0], threads=1)
    bad, images = tmp_path / 'gone.png', crops(5)
    expected = [runner(image)['pred_scores'] for image in images]
    for batch_size in (1, 2, 3, 10):
        sources = [bad, *images[:2], bad, bad, *images[2:], bad]
        found = list(runner.stream(sources, batch_size, return_errors=True))
        errors = [isinstance(result, ImageError) for result in found]
        assert errors == [source is bad for source in sources]
        scores = [r['pred_scores'] for r, error in zip(found, errors) if not error]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert all(isinstance(e, ImageError) for e in runner.stream([bad], return_errors=True))
    with pytest.raises(ImageError, match=r'gone\.png: No such file'):
        list(runner.stream([images[0], bad]))


def test_arrays_of_other_types(classifier):
    runner = Runner(classifier[0], threads=1)
    array = runner.preprocess(crops(1)[0])[0][None]
    expected = runner.infer(array)['logits']
    given = np.asfortranarray(array.astype(np.float64))
    np.testing.assert_allclose(runner.infer(given)['logits'], expected, rtol=1e-5)
    for dtype in (complex, bool, object, str):
        with pytest.raises(ValueError, match=r'images has dtype .*: must be real numb'):
            runner.infer(array.astype(dtype))
    for tensor in (torch.zeros(1, dtype=torch.bfloat16), torch.zeros(1, requires_grad=True)):
        with pytest.raises(ValueError, match=r'images is a Tensor that numpy cannot read'):
            runner.infer(tensor)
    with pytest.raises(ValueError, match=r'images has shape \[0, 3, 16, 16\]'):
        runner.infer(array[:0])


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        (lambda folder: Runner(folder, threads=0), 'threads=0'),
        (lambda folder: Runner(folder, max_pixels=0), 'max_pixels=0'),
        (lambda folder: Runner(folder)(crops(1), batch_size=-1), 'batch_size=-1'),
        (lambda folder: Runner(folder).stream([], jobs=True), 'jobs=True'),
        (lambda folder: Runner(folder).stream([], jobs=10**9), 'jobs=1000000000 must be .* 1024'),
        (lambda folder: Runner(folder).upscale(crops(1)[0]), 'is for classification'),
    ],
)
def test_bad_arguments(classifier, call, words):
    with pytest.raises(ValueError, match=words):
        call(classifier[0])


def test_missing_openvino(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(ImportError, match=r'Runner needs openvino.*mmesbnn\[deploy\]'):
        Runner(classifier[0])


WITHOUT = """
import sys

class Block:
    allowed = {'mmesbnn', 'numpy', 'PIL', 'openvino', 'openvino_telemetry', 'tools'}

    def find_spec(self, name, path=None, target=None):
        package = name.partition('.')[0]
        if package in {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'diffusers',
                       'cv2', 'torchvision', 'safetensors', 'skimage', 'sklearn',
                       'matplotlib', 'rich', 'yaml', 'tqdm', 'scipy'}:
            raise ModuleNotFoundError(f'No module named {package!r}', name=package)

sys.meta_path.insert(0, Block())
"""

USE = """
import json, sys
from mmesbnn.deploy import Runner
result = Runner(sys.argv[1], threads=1)(sys.argv[2])
print(json.dumps(result['pred_scores'].tolist()))
import mmesbnn
try:
    mmesbnn.models
except ImportError as error:
    print(error.name)
"""


def test_without_torch_and_openmmlab(classifier, tmp_path):
    folder, network = classifier
    image = crops(1)[0]
    Image.fromarray(image).save(tmp_path / 'x.png')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT + USE, folder, tmp_path / 'x.png'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    scores, missing = done.stdout.splitlines()
    expected = expected_scores(network, image)
    np.testing.assert_allclose(json.loads(scores), expected, atol=1e-6)
    assert missing in ('torch', 'mmengine')


def test_warns_where_binary_kernels_are_slow(classifier, monkeypatch):
    from mmesbnn.deploy.runtime import kernels

    monkeypatch.setattr(kernels, 'binary_kernels', lambda network: {'ref_any_u1': 3})
    with pytest.warns(UserWarning, match='3 of 3 binary convolutions run as slow'):
        Runner(classifier[0])
