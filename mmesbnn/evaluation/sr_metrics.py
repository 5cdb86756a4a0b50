"""Metrics of super-resolution for mmengine's evaluators, per image set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor

from ..checks import checked, natural, one_of, optional, text
from .image_quality import psnr, ssim


class SRMetric(BaseMetric):
    """Base of metrics that are means over the images of every set, ``<set>/<name>``.

    Predictions are dicts with ``pred`` and ``hr``, uint8 RGB ``(3, H, W)``, and
    ``set_name``, as those of :class:`~mmesbnn.models.restorers.SRDiffusion`.

    Args:
        collect_device: As ``BaseMetric``. Default ``'cpu'``.
        prefix: Text before the names, ``<prefix>/<set>/<name>``. Two metrics of one kind in an
            evaluator, such as on luma and on RGB, need different ones. Default None: none.
    """

    name = ''
    default_prefix = ''  # names begin with the name of the set

    @checked(collect_device=one_of('cpu', 'gpu'), prefix=optional(text))
    def __init__(self, collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)

    def measure(self, image: Tensor, reference: Tensor) -> float:
        """Return the value of the metric for one image, uint8 ``(3, H, W)``."""
        raise NotImplementedError

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Measure a batch."""
        for sample in data_samples:
            value = self.measure(sample['pred'], sample['hr'])
            self.results.append((sample['set_name'], value))

    def compute_metrics(self, results: list[tuple[str, float]]) -> dict[str, float]:
        """Average over every set."""
        by_set = defaultdict(list)
        for set_name, value in results:
            by_set[set_name].append(value)
        return {f'{k}/{self.name}': sum(v) / len(v) for k, v in by_set.items()}


class FullReferenceMetric(SRMetric):
    """Base of metrics that compare the pixels of two images.

    Args:
        crop_border: Number of pixels to cut off on each side. Published figures use the
            magnification. Default 0.
        convert_to: ``'Y'`` for luma, None for RGB. Default ``'Y'``.
        collect_device: As ``BaseMetric``. Default ``'cpu'``.
        prefix: As :class:`SRMetric`. Default None.

    Raises:
        ValueError: If an argument is not as described.
    """

    figure: Callable[..., float]

    @checked(crop_border=natural, convert_to=one_of('Y', None))
    def __init__(
        self,
        crop_border: int = 0,
        convert_to: str | None = 'Y',
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        self.options = dict(crop_border=crop_border, convert_to=convert_to)

    def measure(self, image: Tensor, reference: Tensor) -> float:
        """Return the value of the metric for one image, uint8 ``(3, H, W)``."""
        return self.figure(image, reference, **self.options)


@METRICS.register_module()
class PSNR(FullReferenceMetric):
    """Metric :func:`~mmesbnn.evaluation.psnr` in dB; see :class:`FullReferenceMetric`."""

    name, figure = 'PSNR', staticmethod(psnr)


@METRICS.register_module()
class SSIM(FullReferenceMetric):
    """Metric :func:`~mmesbnn.evaluation.ssim`; see :class:`FullReferenceMetric`."""

    name, figure = 'SSIM', staticmethod(ssim)


@METRICS.register_module()
class LPIPS(SRMetric):
    """Metric of the distance of deep features, from the ``lpips`` package; on RGB, no border.

    Args:
        net: ``'alex'``, as published, ``'vgg'`` or ``'squeeze'``. The ImageNet weights are
            downloaded if they are not in torch's cache. Default ``'alex'``.
        device: Device of the computation. Default ``'cpu'``.
        collect_device: As ``BaseMetric``. Default ``'cpu'``.
        prefix: As :class:`SRMetric`. Default None.

    Raises:
        ImportError: If lpips is not installed.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a
    Perceptual Metric" (2018).
    """

    name = 'LPIPS'

    @checked(net=one_of('alex', 'vgg', 'squeeze'))
    def __init__(
        self,
        net: str = 'alex',
        device: str = 'cpu',
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        try:
            lpips = import_module('lpips')
        except ImportError as error:
            raise ImportError(
                f'LPIPS needs the package lpips ({error}): pip install lpips, or take '
                'LPIPS out of the evaluator'
            ) from error
        self.device = torch.device(device)
        self.network = lpips.LPIPS(net=net, verbose=False).to(self.device).eval()

    @torch.no_grad()
    def measure(self, image: Tensor, reference: Tensor) -> float:
        """Compute LPIPS of one image."""
        x, y = (
            (i.to(self.device, torch.float32) / 127.5 - 1).unsqueeze(0) for i in (image, reference)
        )
        return self.network(x, y).item()
