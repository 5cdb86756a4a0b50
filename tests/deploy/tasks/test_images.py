import pytest

from mmesbnn.deploy import ExportError
from mmesbnn.deploy.runtime.steps import Preprocessing
from mmesbnn.deploy.tasks.images import photographs


def preprocessing(mean, std):
    return Preprocessing(steps=(), mean=mean, std=std, to_rgb=False, pad_divisor=1, pad_value=0)


def test_images_of_other_channels_than_colours_have_a_mean_for_each():
    means = (0.0, 10.0, 20.0, 30.0)
    images, _ = photographs((4, 16, 20), preprocessing(means, (1.0, 1.0, 2.0, 1.0)), 2)
    assert images.shape == (2, 4, 16, 20)
    for channel, (mean, std) in enumerate(zip(means, (1, 1, 2, 1))):
        assert (images[:, channel] * std + mean - images[:, 0]).abs().max() < 1e-3


def test_means_of_other_channels_than_the_network_takes_are_named():
    message = 'mean and std have 4 numbers, and the network takes 5 channels'
    with pytest.raises(ExportError, match=message):
        photographs((5, 16, 20), preprocessing((0.0,) * 4, (1.0,) * 4), 1)
