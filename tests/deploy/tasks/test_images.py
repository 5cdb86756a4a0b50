import pytest
import torch

from mmesbnn.deploy import ExportError
from mmesbnn.deploy.runtime.steps import Preprocessing
from mmesbnn.deploy.tasks import images
from mmesbnn.deploy.tasks.images import photographs
from tests.defaults import torch_default, with_other_defaults


def preprocessing(mean, std):
    return Preprocessing(steps=(), mean=mean, std=std, to_rgb=False, pad_divisor=1, pad_value=0)


def test_images_of_other_channels_than_colours_have_a_mean_for_each():
    means = (0.0, 10.0, 20.0, 30.0)
    found, _ = photographs((4, 16, 20), preprocessing(means, (1.0, 1.0, 2.0, 1.0)), 2)
    assert found.shape == (2, 4, 16, 20)
    for channel, (mean, std) in enumerate(zip(means, (1, 1, 2, 1))):
        assert (found[:, channel] * std + mean - found[:, 0]).abs().max() < 1e-3


def test_means_of_other_channels_than_the_network_takes_are_named():
    message = 'mean and std have 4 numbers, and the network takes 5 channels'
    with pytest.raises(ExportError, match=message):
        photographs((5, 16, 20), preprocessing((0.0,) * 4, (1.0,) * 4), 1)


@with_other_defaults
@pytest.mark.parametrize('names', [images.PHOTOGRAPHS, ()], ids=['photographs', 'noise'])
def test_images_do_not_depend_on_the_defaults_of_torch(names, default, monkeypatch):
    monkeypatch.setattr(images, 'PHOTOGRAPHS', names)
    arguments = (3, 16, 20), preprocessing((1.1, 2.2, 3.3), (1.0, 1.5, 1.7)), 2
    expected, _ = photographs(*arguments)
    with torch_default(default):
        found, _ = photographs(*arguments)
    assert found.dtype == expected.dtype and torch.equal(found, expected)
