"""The networks of all forms that benchmarks compare can be built, and their sizes are equal."""

import pytest

pytest.importorskip('skimage')
pytest.importorskip('sklearn')
import es_drop_in
import es_super_resolution
import torch


@pytest.mark.parametrize('form', es_super_resolution.FORMS)
def test_super_resolution(form):
    torch.manual_seed(0)
    model = es_super_resolution.Network(**es_super_resolution.FORMS[form])
    x = torch.rand(2, 3, 16, 16)
    y = model(x)
    y.square().mean().backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    binary = sum(
        module.conv.weight.numel()
        for module in model.modules()
        if isinstance(module, es_super_resolution.BIConv)
    )
    side, depth = es_super_resolution.CHANNELS, es_super_resolution.DEPTH
    assert binary == 2 * depth * 9 * side**2


class Noise:
    """Takes the place of crops of photographs, and counts the batches."""

    batches: list = []

    def __init__(self, seed):
        pass

    def draw(self, count):
        self.batches.append(count)
        return torch.rand(count, 3, 8, 8), torch.rand(count, 3, 8, 8)


def test_a_form_that_trains_longer(monkeypatch):
    monkeypatch.setattr(Noise, 'batches', [])
    monkeypatch.setattr(es_super_resolution, 'Crops', Noise)
    monkeypatch.setattr(es_super_resolution, 'image_files', lambda folder: [])
    monkeypatch.setattr(es_super_resolution, 'mean', lambda values: 0.0)
    (longer,) = es_super_resolution.LONGER
    es_super_resolution.train(longer, 0, 4)
    assert Noise.batches.count(es_super_resolution.BATCH) == 6


@pytest.mark.parametrize('form', es_drop_in.FORMS)
def test_drop_in_layers(form):
    model = es_drop_in.network(*es_drop_in.FORMS[form])
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
