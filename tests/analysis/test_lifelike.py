import torch
from torch import nn

from mmesbnn.analysis import check_binary
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.models.backbones import BNext
from tests.defaults import torch_default, with_other_defaults


def test_norms_have_the_statistics_of_the_images():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3))
    x = torch.randn(4, 3, 8, 8)
    assert lifelike(model, x) is model and not model.training
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))
    assert len(model[1].weight.unique()) == 3
    assert model[0].momentum == 0.1


def test_a_network_is_binary_and_the_same_with_the_same_seed():
    x = torch.randn(2, 3, 32, 32)
    arch, outputs = dict(channels=[16, 16, 32]), []
    for _ in range(2):
        torch.manual_seed(0)
        model = lifelike(BNext(arch, tau=2), x)
        assert check_binary(model, x) == []
        outputs.append(model(x)[-1])
    assert torch.equal(*outputs)
    assert outputs[0].std() > 0


class Silent(nn.Sequential):
    """A network whose ``train`` returns nothing, as that of mmpretrain's backbones."""

    def train(self, mode=True):
        super().train(mode)


def test_a_network_whose_train_returns_nothing():
    model = Silent(nn.BatchNorm2d(3))
    assert lifelike(model, torch.randn(2, 3, 4, 4)) is model and not model[0].training


@with_other_defaults
def test_parameters_do_not_depend_on_the_defaults_of_torch(default):
    models, x = [nn.Sequential(nn.BatchNorm2d(3), nn.PReLU(3)) for _ in range(2)], torch.ones(2, 3)
    x = x[..., None, None]
    expected = lifelike(models[0], x).state_dict()
    with torch_default(default):
        found = lifelike(models[1], x).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
