"""The comparison of ES with timestep banks: its networks, and the noise it adds."""

import pytest

pytest.importorskip('skimage')
pytest.importorskip('sklearn')
import es_timesteps
import torch
from es_timesteps import FORMS, STEPS, Denoiser, Noisy

from mmesbnn.diffusion.bi_layers import BIConv


@pytest.mark.parametrize('form', FORMS)
def test_forms_have_the_same_binary_weights_and_use_every_bank(form):
    torch.manual_seed(0)
    model = Denoiser(**FORMS[form])
    x, noisy = torch.rand(10, 3, 8, 8), torch.randn(10, 3, 8, 8)
    model(x, noisy, torch.arange(0, STEPS, STEPS // 10)).square().mean().backward()
    convs = [m for m in model.modules() if isinstance(m, BIConv)]
    assert sum(conv.conv.weight.numel() for conv in convs) == 2 * 4 * 9 * 32**2
    for conv in convs:
        assert conv.act.slope.shape[0] == FORMS[form]['banks']
        assert (conv.act.slope.grad.abs().sum(1) > 0).all()


class Crops:
    """Takes the place of crops of photographs."""

    def __init__(self, seed, part='train'):
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count):
        pair = torch.randn(2, count, 3, 24, 24, generator=self.generator)
        return pair.unbind()


def test_the_share_of_the_noise_grows_with_the_timestep(monkeypatch):
    monkeypatch.setattr(es_timesteps, 'Crops', Crops)
    _, noisy, t, noise = Noisy(0).draw(200)
    assert float(noisy.std()) == pytest.approx(1, abs=0.02)
    likeness = (noisy * noise).mean((1, 2, 3))
    expected = torch.sin(torch.pi / 2 * (t + 0.5) / STEPS)
    torch.testing.assert_close(likeness, expected, rtol=0, atol=0.12)


def test_errors_of_spans_are_means_of_their_timesteps(monkeypatch):
    monkeypatch.setattr(es_timesteps, 'Crops', Crops)

    def model(x, noisy, t):
        return (t // 20).float()[:, None, None, None].expand_as(noisy)

    error, spans = es_timesteps.judge(model, Noisy(3))
    assert spans == pytest.approx([1, 2, 5, 10, 17], rel=0.02)
    assert error == pytest.approx(7, rel=0.1)


def test_a_training_is_measured(monkeypatch):
    monkeypatch.setattr(es_timesteps, 'Crops', Crops)
    monkeypatch.setattr(es_timesteps, 'JUDGED', 64)
    line = es_timesteps.train('tau 2', 0, 41)
    assert 0 < line['fit'] < 2 and 0 < line['test'] < 2 and len(line['spans']) == 5
