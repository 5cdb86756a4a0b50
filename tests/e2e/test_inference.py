"""Predictions of the shipped configs through mmpretrain's interface."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain import ImageClassificationInferencer, get_model
from mmpretrain.structures import DataSample
from PIL import Image

from tests.real_data import photograph

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DEMO = str(CONFIGS / 'demo' / 'es_bnext_digits.py')
TINY = str(CONFIGS / 'es_bnext_tiny.py')


@pytest.fixture
def no_teachers(monkeypatch):
    """Fail if a teacher is built or a file is downloaded."""

    def refuse(*args, **kwargs):
        raise AssertionError('inference must not build or download teachers')

    monkeypatch.setattr('mmesbnn.models.classifiers.distill.build_teacher', refuse)
    monkeypatch.setattr('torch.hub.load_state_dict_from_url', refuse)
    monkeypatch.setattr('torch.hub.download_url_to_file', refuse)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / 'photograph.png'
    Image.fromarray(photograph(1)).save(path)
    return str(path)


@pytest.fixture
def trained(tmp_path):
    """Return a model of the demo config with its own weights, and their file."""
    model = get_model(DEMO).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path / 'weights.pth'
    torch.save(model.state_dict(), path)
    return model, str(path)


def assert_prediction(result, classes):
    scores = result['pred_scores']
    assert scores.shape == (classes,)
    assert scores.sum() == pytest.approx(1, abs=1e-4)
    assert result['pred_label'] == scores.argmax()
    assert result['pred_score'] == scores.max()


def test_imagenet_config_classifies_a_photograph(no_teachers, picture):
    inferencer = ImageClassificationInferencer(TINY)
    (from_file,) = inferencer(picture)
    assert_prediction(from_file, 1000)
    assert isinstance(from_file['pred_class'], str)
    # arrays are BGR, as OpenCV reads them
    (from_array,) = inferencer(photograph(1)[..., ::-1])
    np.testing.assert_array_equal(from_array['pred_scores'], from_file['pred_scores'])


def test_a_model_that_was_built_before_classifies_alike(no_teachers, picture):
    model = get_model(TINY)
    assert len(model.teachers) == 0
    (result,) = ImageClassificationInferencer(model)(picture)
    assert_prediction(result, 1000)


def test_saved_weights_serve_a_batch_of_odd_sizes(trained):
    model, weights = trained
    inferencer = ImageClassificationInferencer(DEMO, pretrained=weights)
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        for size in ((13, 17), (8, 8), (41, 5))
    ]
    together = inferencer(images, batch_size=3)
    for image, result in zip(images, together):
        assert_prediction(result, 10)
        for other in (inferencer, ImageClassificationInferencer(model)):
            (alone,) = other(image)
            np.testing.assert_allclose(alone['pred_scores'], result['pred_scores'], atol=1e-5)


@pytest.mark.parametrize('size', [(19, 13), (16, 16), (7, 33)])
def test_demo_network_takes_odd_sizes(trained, size):
    model, _ = trained
    with torch.no_grad():
        logits = model(torch.randn(3, 3, *size), mode='tensor')
    logits = model.head.fc(logits[-1]) if isinstance(logits, tuple) else logits
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()


def step_in_bfloat16(monkeypatch):
    """Train the demo's model one step; return both states, losses and logits."""
    # mmengine wants a GPU for mixed precision, torch does not
    name = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(name, lambda: True)
    model = get_model(DEMO).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    options = {**Config.fromfile(DEMO).optim_wrapper, 'type': 'AmpOptimWrapper'}
    wrapper = build_optim_wrapper(model, {**options, 'dtype': 'bfloat16'})
    images = [torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8) for _ in range(4)]
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    logits = []
    model.head.fc.register_forward_hook(lambda *args: logits.append(args[-1]))
    losses = model.train_step(dict(inputs=images, data_samples=samples), wrapper)
    return model, before, losses, logits


@pytest.mark.filterwarnings('ignore:.*GradScaler is enabled, but CUDA:UserWarning')
def test_a_step_in_mixed_precision(monkeypatch):
    model, before, losses, logits = step_in_bfloat16(monkeypatch)
    assert [value.dtype for value in logits] == [torch.bfloat16]
    assert losses['loss'].isfinite()
    parameters = dict(model.named_parameters())
    assert all(value.isfinite().all() for value in parameters.values())
    assert all(value.dtype == torch.float32 for value in parameters.values())
    moved = [name for name, old in before.items() if not old.equal(parameters[name])]
    assert any('conv.weight' in name for name in moved)
    assert 'head.fc.weight' in moved
