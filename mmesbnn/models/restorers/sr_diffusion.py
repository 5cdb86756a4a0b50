"""Diffusion model for super-resolution that mmengine trains and validates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from ...checks import (
    checked,
    each,
    integer,
    mapping,
    natural,
    not_negative,
    one_of,
    optional,
    positive_int,
)
from ...images.bicubic import resize
from ...images.tensors import to_uint8
from ...optional import require
from ...seeded import drawn
from ..building import build_part, naming

#: Losses by name; each is a function of prediction and target, both (N, C, H, W).
LOSSES = {'l1': F.l1_loss, 'l2': F.mse_loss}
#: Arguments of the pipeline's call that a config can set; the model gives the others itself.
SAMPLING = dict(
    num_inference_steps=positive_int,
    eta=not_negative,
    tile_size=optional(positive_int),
    tile_overlap=natural,
)


def _as_float(image: Tensor) -> Tensor:
    return image.float() / 255


@MODELS.register_module()
class SRDataPreprocessor(BaseDataPreprocessor):
    """Preprocessor that moves images to the model's device as ``x / 255`` in float32.

    Training images become one batch. Test images may differ in size and stay a list.

    Raises:
        ValueError: While training, if the images differ in size.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare the data of a loader with either of mmengine's collate functions.

        Args:
            data: ``inputs`` and optionally ``data_samples`` with ``hr``. Both are uint8,
                a tensor ``(N, 3, H, W)`` or a list of ``(3, H, W)``.
            training: Whether to return tensors instead of lists. Default False.
        """
        data = self.cast_data(data)
        samples = dict(data.get('data_samples') or {})
        inputs = self._images('inputs', data['inputs'], training)
        if training:
            samples['hr'] = self._images('hr', samples['hr'], training)
        return dict(inputs=inputs, data_samples=samples)

    @staticmethod
    def _images(name: str, images: Any, training: bool) -> Tensor | list[Tensor]:
        images = [_as_float(image) for image in images]
        if not training:
            return images
        if len({image.shape for image in images}) > 1:
            raise ValueError(
                f'{name}: images of a batch differ in size: set crop_size of the '
                'dataset of train_dataloader'
            )
        return torch.stack(images)


@MODELS.register_module()
class SRDiffusion(BaseModel):
    """Diffusion model: a UNet predicts the noise of an image from its small version.

    Training: ``L = mean |net([up(lr), sqrt(a_t) hr + sqrt(1 - a_t) n], t) - n|`` with
    ``n ~ N(0, 1)``, ``t`` uniform, ``a_t`` the cumulated product of ``1 - beta``, and
    ``up`` MATLAB's bicubic. Images are in [0, 1]. ``prediction_type`` in ``scheduler``
    changes the target ``n``: with ``'sample'`` it is ``hr``, with ``'v_prediction'`` it is
    ``sqrt(a_t) n - sqrt(1 - a_t) hr``.

    Validation and test sample with :class:`~mmesbnn.diffusion.SRDiffusionPipeline`. Each
    image has its own noise generator on the CPU, with the seed ``seed + index of the
    image``. Results therefore depend neither on batches nor on devices.

    Args:
        unet: Config of the UNet. Its inputs are ``[condition, noisy image]`` and
            timesteps, as those of :class:`~mmesbnn.diffusion.BIDiffSRUNet`.
        scale: Magnification, at least 1.
        scheduler: Arguments of :func:`~mmesbnn.diffusion.schedule.make_scheduler`.
            Default None: DDIM with the published schedule.
        sampling: Arguments of the pipeline's call: ``num_inference_steps``, ``eta``,
            ``tile_size`` and ``tile_overlap``. Default
            ``dict(num_inference_steps=50)``, as published.
        pipeline: Further arguments of the pipeline. Default None.
        timesteps: ``'each'`` draws one timestep per image; ``'batch'`` draws one for all
            images of a batch, as published. Default ``'each'``.
        loss: ``'l1'``, as published, or ``'l2'``. Default ``'l1'``.
        seed: Seed of the initial noise of sampling. Default 10, as published.
        data_preprocessor: Default ``dict(type='SRDataPreprocessor')``.
        init_cfg: As ``BaseModel``.

    Raises:
        ValueError: If an argument is not one of the allowed values, or if the UNet
            expects another number of timesteps or another prediction; in training, if
            images do not have the magnification ``scale``, or their sizes are no multiples
            of the UNet's ``size_factor``.
        ImportError: If diffusers is not installed.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution",
    arXiv 2406.05723.
    """

    @checked(
        unet=mapping(['type']),
        scale=positive_int,
        timesteps=one_of('each', 'batch'),
        loss=one_of(*LOSSES),
        seed=integer(0, 2**63 - 1),  # the index of an image is added, and torch has 64 bits
        sampling=optional(each(mapping((), SAMPLING), **SAMPLING)),
        pipeline=optional(mapping((), ['x0_clip'])),
    )
    def __init__(
        self,
        unet: dict[str, Any],
        scale: int,
        scheduler: dict[str, Any] | None = None,
        sampling: dict[str, Any] | None = None,
        pipeline: dict[str, Any] | None = None,
        timesteps: str = 'each',
        loss: str = 'l1',
        seed: int = 10,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        require('diffusers', 'sr', 'SRDiffusion')
        from ...diffusion.schedule import make_scheduler

        preprocessor = data_preprocessor or dict(type='SRDataPreprocessor')
        super().__init__(preprocessor, init_cfg)
        self.unet = build_part('unet', unet)
        with naming('scheduler', scheduler):
            self.scheduler = make_scheduler(**(scheduler or {}))
        self.scale, self.timesteps, self.loss_name = scale, timesteps, loss
        self.sampling = {'num_inference_steps': 50, **(sampling or {})}
        self.pipeline_options = dict(pipeline or {})
        self.seed = seed
        self._check_sampling()

    @property
    def total_steps(self) -> int:
        """``T``, the number of timesteps of the training schedule."""
        return self.scheduler.config.num_train_timesteps  # type: ignore[attr-defined]

    def _check_sampling(self) -> None:
        """Check the sampling options at construction, not in the first validation."""
        from ...diffusion.pipeline import size_factor
        from ...diffusion.tiling import TILE_OVERLAP, check_tiles

        pipeline = self.to_pipeline()  # checks the schedule
        steps = self.sampling['num_inference_steps']
        if steps > self.total_steps:
            raise ValueError(
                f'sampling: num_inference_steps={steps} must be from 1 to the '
                f"schedule's {self.total_steps}"
            )
        if self.sampling.get('tile_size') is not None:
            overlap = self.sampling.get('tile_overlap', TILE_OVERLAP)
            check_tiles(self.sampling['tile_size'], overlap, size_factor(pipeline.unet))

    def condition(self, lr: Tensor) -> Tensor:
        """Resize ``lr`` to the size of the result and clamp it to [0, 1].

        Args:
            lr: ``(N, 3, h, w)``.
        """
        height, width = lr.shape[-2:]
        return resize(lr, (height * self.scale, width * self.scale)).clamp(0, 1)

    def _check_crop(self, height: int, width: int) -> None:
        from ...diffusion.pipeline import size_factor

        factor = size_factor(self.unet)
        if height % factor or width % factor:
            raise ValueError(
                f'images of the training data have {height} x {width} pixels, but unet needs '
                f'multiples of {factor}: set crop_size of the dataset of train_dataloader to one'
            )

    def _draw_timesteps(self, images: Tensor) -> Tensor:
        count = len(images) if self.timesteps == 'each' else 1
        drawn = torch.randint(self.total_steps, (count,), device=images.device)
        return drawn.expand(len(images))

    def _target(self, hr: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type  # type: ignore[attr-defined]
        if kind == 'epsilon':
            return noise
        if kind == 'sample':
            return hr
        return self.scheduler.get_velocity(hr, noise, timesteps)  # type: ignore[arg-type]

    def loss(self, inputs: Tensor, data_samples: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            inputs: Low-resolution images ``(N, 3, h, w)`` in [0, 1].
            data_samples: ``hr``, ``(N, 3, scale h, scale w)`` in [0, 1].
        """
        hr, condition = data_samples['hr'], self.condition(inputs)
        if hr.shape != condition.shape:
            raise ValueError(
                f'the model has scale={self.scale}, but the images of the training '
                f'data are {tuple(inputs.shape[-2:])} and {tuple(hr.shape[-2:])} pixels'
            )
        self._check_crop(*hr.shape[-2:])
        timesteps, noise = self._draw_timesteps(hr), torch.randn_like(hr)
        noisy = self.scheduler.add_noise(hr, noise, timesteps)  # type: ignore[arg-type]
        predicted = self.unet(torch.cat([condition, noisy], 1), timesteps).sample
        target = self._target(hr, noise, timesteps)
        return {f'loss_{self.loss_name}': LOSSES[self.loss_name](predicted, target)}

    def to_pipeline(self) -> Any:
        """Build a pipeline with this model's UNet, for sampling and ``save_pretrained``.

        Returns:
            :class:`~mmesbnn.diffusion.SRDiffusionPipeline`.
        """
        from ...diffusion import SRDiffusionPipeline

        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        return SRDiffusionPipeline(
            unet=self.unet, scheduler=scheduler, scale=self.scale, **self.pipeline_options
        )

    @torch.no_grad()
    def predict(
        self, inputs: Sequence[Tensor], data_samples: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Sample high-resolution images.

        Args:
            inputs: Low-resolution images ``(3, h, w)`` in [0, 1].
            data_samples: ``index``, ``name``, ``set_name`` and optionally ``hr`` of each.

        Returns:
            ``data_samples`` of every image, with ``pred``, uint8
            ``(3, scale h, scale w)``.
        """
        pipeline = self.to_pipeline()
        pipeline.set_progress_bar_config(disable=True)
        results = []
        for i, lr in enumerate(inputs):
            sample = {key: values[i] for key, values in data_samples.items()}
            generator = torch.Generator().manual_seed(self.seed + int(sample['index']))
            image = pipeline(
                lr[None], generator=generator, output_type='pt', **self.sampling
            ).images[0]
            results.append({**sample, 'pred': to_uint8(image)})
        return results

    def forward(
        self, inputs: Any, data_samples: dict[str, Any] | None = None, mode: str = 'tensor'
    ) -> Any:
        """Run the model in one of the three modes of mmengine's models.

        Args:
            inputs: As in :meth:`loss` and :meth:`predict`; in the mode ``'tensor'`` either, with
                images of one size.
            data_samples: As in :meth:`loss` and :meth:`predict`.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``. ``'tensor'`` returns the
                UNet's prediction for the noisiest timestep and pure noise. The noise is
                the same at every call. This is a single step, for counting operations.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or {})
        if mode == 'predict':
            return self.predict(inputs, data_samples or {})
        images = inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))
        condition = self.condition(images)
        noise = drawn(condition.shape, self.seed).to(condition)
        return self.unet(torch.cat([condition, noise], 1), self.total_steps - 1).sample
