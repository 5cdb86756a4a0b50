"""Metrics per image set, called as an evaluator calls them."""

import sys
import types

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.evaluation import psnr, ssim
from tests.real_data import photograph


def sample(index, set_name, noise):
    hr = torch.from_numpy(photograph(index)[:40, 50:98].copy()).permute(2, 0, 1)
    spoilt = hr + noise * torch.randn(hr.shape)
    return dict(hr=hr, pred=spoilt.clamp(0, 255).byte(), set_name=set_name)


def test_means_per_set():
    samples = [sample(0, 'Set5', 5), sample(1, 'Set5', 10), sample(2, 'B100', 20)]
    options = dict(crop_border=2, convert_to='Y')
    evaluator = Evaluator([dict(type='PSNR', **options), dict(type='SSIM', **options)])
    evaluator.process(samples[:2])
    evaluator.process(samples[2:])
    figures = evaluator.evaluate(3)
    for name, measure in (('PSNR', psnr), ('SSIM', ssim)):
        first, second, third = (measure(s['pred'], s['hr'], **options) for s in samples)
        assert figures[f'Set5/{name}'] == pytest.approx((first + second) / 2)
        assert figures[f'B100/{name}'] == pytest.approx(third)
    assert len(figures) == 4


def test_rgb_and_border_are_options():
    one = sample(0, 'Set5', 5)
    metric = METRICS.build(dict(type='PSNR', convert_to=None, crop_border=3))
    assert metric.measure(one['pred'], one['hr']) == psnr(one['pred'], one['hr'], 3)


def test_luma_and_rgb_go_into_one_evaluator():
    samples = [sample(0, 'Set5', 5)]
    rgb = dict(type='PSNR', convert_to=None, prefix='RGB')
    evaluator = Evaluator([dict(type='PSNR'), rgb])
    evaluator.process(samples)
    figures = evaluator.evaluate(1)
    pair = samples[0]['pred'], samples[0]['hr']
    assert figures['Set5/PSNR'] == psnr(*pair, convert_to='Y')
    assert figures['RGB/Set5/PSNR'] == psnr(*pair)


@pytest.mark.parametrize('kind', ['PSNR', 'SSIM'])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(convert_to='y'), "convert_to='y' must be 'Y' or None"),
        (dict(crop_border=-1), 'crop_border=-1 must be an integer >= 0'),
        (dict(prefix=1), 'prefix=1 must be'),
        (dict(crop_border=1.5), 'crop_border=1.5 must be an integer >= 0'),
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(ValueError, match=message):
        METRICS.build(dict(type=kind, **options))


def test_missing_lpips_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lpips', None)
    with pytest.raises(ImportError, match=r'LPIPS needs .* lpips .*pip install'):
        METRICS.build(dict(type='LPIPS'))


class Distance(torch.nn.Module):
    """Replaces lpips: keeps its inputs and returns a distance."""

    def __init__(self, net, verbose):
        super().__init__()
        self.net = net

    def forward(self, x, y):
        assert x.shape == y.shape == (1, 3, 40, 48) and x.dtype == torch.float32
        self.seen = x, y
        return (x - y).abs().mean().view(1, 1, 1, 1)


def test_lpips_sees_rgb_from_minus_one_to_one(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lpips', types.SimpleNamespace(LPIPS=Distance))
    metric = METRICS.build(dict(type='LPIPS'))
    assert metric.network.net == 'alex' and not metric.network.training
    one = sample(0, 'Set5', 5)
    one['hr'][:, 0, 0] = torch.tensor([0, 255, 128])
    metric.process(None, [one])
    seen = metric.network.seen[1][0, :, 0, 0].tolist()
    assert seen == pytest.approx([-1, 1, 128 / 127.5 - 1], abs=1e-6)
    expected = (one['pred'].float() - one['hr'].float()).abs().mean() / 127.5
    assert metric.evaluate(1)['Set5/LPIPS'] == pytest.approx(expected.item(), rel=1e-5)


def test_real_lpips_agrees_with_itself_on_equal_images(tmp_path, monkeypatch):
    lpips = pytest.importorskip('lpips')
    # its own layers with random AlexNet weights, because tests download nothing
    real = lpips.LPIPS
    monkeypatch.setattr(
        lpips, 'LPIPS', lambda net, verbose: real(net=net, verbose=verbose, pnet_rand=True)
    )
    metric = METRICS.build(dict(type='LPIPS'))
    one = sample(0, 'Set5', 20)
    assert metric.measure(one['hr'], one['hr']) == 0
    assert metric.measure(one['pred'], one['hr']) > 0
