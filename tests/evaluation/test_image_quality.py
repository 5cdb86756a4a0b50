"""PSNR and SSIM equal scikit-image and the formulas of common toolboxes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mmesbnn.evaluation import luma, psnr, ssim
from tests.real_data import photograph

BORDER = 4


@pytest.fixture(scope='module')
def pair():
    """Return a photograph and a noisy, shifted version; uint8 (H, W, 3)."""
    image = photograph(0)[60:180, 140:300].astype(int)
    noise = np.random.default_rng(0).normal(0, 12, image.shape)
    return (image.astype(np.uint8), np.clip(np.roll(image, 1, 1) + noise, 0, 255).astype(np.uint8))


def tensors(pair):
    return [torch.from_numpy(image).permute(2, 0, 1) for image in pair]


def toolbox_luma(image):
    """Compute luma as mmagic and BasicSR: of values in 0..1, then times 255."""
    return (image / 255 @ np.array([65.481, 128.553, 24.966]) + 16.0) / 255 * 255


def cut(image):
    return image[BORDER:-BORDER, BORDER:-BORDER]


def test_luma_is_that_of_scikit_image_and_of_the_toolboxes(pair):
    ours = luma(tensors(pair)[0])[0].numpy()
    assert np.abs(ours - rgb2ycbcr(pair[0])[..., 0]).max() < 1e-10
    assert np.abs(ours - toolbox_luma(pair[0])).max() < 1e-10
    white = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    assert torch.allclose(luma(white), torch.tensor(235.0, dtype=torch.float64))


def test_psnr_on_y(pair):
    x, y = (cut(toolbox_luma(image)) for image in pair)
    toolbox = 20 * np.log10(255 / np.sqrt(np.mean((x - y) ** 2)))
    ours = psnr(*tensors(pair), crop_border=BORDER, convert_to='Y')
    assert abs(ours - toolbox) < 1e-10
    assert abs(ours - peak_signal_noise_ratio(x, y, data_range=255)) < 1e-10


def test_psnr_on_rgb(pair):
    ours = psnr(*tensors(pair), crop_border=BORDER)
    theirs = peak_signal_noise_ratio(*(cut(i) for i in pair), data_range=255)
    assert abs(ours - theirs) < 1e-10


def toolbox_ssim(x, y):
    """Compute BasicSR's and mmagic's SSIM: plain sums over all places of the window."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    patches = (np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (x, y))
    x, y = patches

    def mean(values):
        return (values * window).sum((-2, -1))

    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = mean(x**2) - mu_x**2, mean(y**2) - mu_y**2
    cov = mean(x * y) - mu_x * mu_y
    c1, c2 = 2.55**2, 7.65**2
    top = (2 * mu_x * mu_y + c1) * (2 * cov + c2)
    return (top / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))).mean()


def scikit_ssim(x, y, **options):
    return structural_similarity(
        x,
        y,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        **options,
    )


def test_ssim_on_y(pair):
    x, y = (cut(toolbox_luma(image)) for image in pair)
    ours = ssim(*tensors(pair), crop_border=BORDER, convert_to='Y')
    assert abs(ours - toolbox_ssim(x, y)) < 1e-10
    assert abs(ours - scikit_ssim(x, y)) < 1e-9


def test_ssim_on_rgb_is_the_mean_over_channels(pair):
    ours = ssim(*tensors(pair), crop_border=BORDER)
    x, y = (cut(image).astype(float) for image in pair)
    assert abs(ours - scikit_ssim(x, y, channel_axis=2)) < 1e-9


def test_equal_images(pair):
    x = tensors(pair)[0]
    assert psnr(x, x) == math.inf
    assert ssim(x, x) == pytest.approx(1, abs=1e-12)


@given(st.integers(0, 255), st.integers(0, 255))
def test_constant_images(a, b):
    x, y = (torch.full((3, 12, 12), value, dtype=torch.uint8) for value in (a, b))
    expected = 20 * math.log10(255 / abs(a - b)) if a != b else math.inf
    assert psnr(x, y) == pytest.approx(expected)
    c1 = 2.55**2
    assert ssim(x, y) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1))


def test_errors_in_the_border_do_not_count(pair):
    x, y = tensors(pair)
    spoilt = y.clone()
    spoilt[:, :BORDER] = spoilt[..., -BORDER:] = 0
    for measure in (psnr, ssim):
        expected = measure(x, y, crop_border=BORDER)
        assert measure(x, spoilt, crop_border=BORDER) == expected
        assert measure(x, spoilt) < expected


@pytest.mark.parametrize('measure', [psnr, ssim])
def test_bad_input(measure):
    x = torch.zeros(3, 12, 12, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r'\(3, 12, 12\) and .*\(3, 12, 11\)'):
        measure(x, x[..., 1:])
    with pytest.raises(ValueError, match='crop_border=6 leaves nothing of 12 x 12'):
        measure(x, x, crop_border=6)


def test_ssim_needs_a_window():
    x = torch.zeros(3, 12, 12, dtype=torch.uint8)
    message = 'SSIM needs 11 x 11 pixels; without crop_border=1 there are 10 x 10'
    with pytest.raises(ValueError, match=message):
        ssim(x, x, crop_border=1)


def test_luma_needs_colours_or_grey():
    image = torch.full((4, 12, 12), 100.0)
    with pytest.raises(ValueError, match=r'must be a tensor \(3, H, W\), or grey .*\(4, 12, 12\)'):
        psnr(image, image + 1, convert_to='Y')
    assert torch.equal(luma(image[:1]), luma(image[:3]))
