"""Pipeline of diffusers that upscales images with the sampling loop."""

from __future__ import annotations

import inspect
import itertools
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from ..binary.modes import eval_mode
from ..checks import (
    checked,
    either,
    instance,
    integer,
    natural,
    not_negative,
    one_of,
    optional,
    positive_int,
    sequence,
)
from ..errors import sentence
from ..images.bicubic import resize
from ..images.tensors import to_uint8
from . import _LAZY
from .folders import LOCAL, check_pipeline, check_weights, loading
from .image_input import to_tensor
from .schedule import check_scheduler, clip_prediction, levels_of_step, make_scheduler
from .tiling import TILE_OVERLAP, check_tiles, pad_reflect, tile_starts, tile_weights

X0_CLIPS = ('data', 'scheduler')
OUTPUT_TYPES = ('pil', 'np', 'pt')
_GENERATOR = instance(torch.Generator, 'a torch.Generator')


def size_factor(unet: Any) -> int:
    """Return the number that must divide height and width of a UNet's input."""
    factor = getattr(unet, 'size_factor', None)
    if factor is None:  # diffusers' UNets halve the size between their blocks
        factor = 2 ** (len(unet.config.block_out_channels) - 1)
    return factor


def trained_for(unet: Any) -> tuple[int | None, str | None]:
    """Return a UNet's number of timesteps and kind of prediction, None if unknown."""
    return getattr(unet.config, 'total_steps', None), getattr(unet, 'prediction_type', None)


class SRDiffusionPipeline(DiffusionPipeline):
    """Pipeline for super-resolution by diffusion.

    The image is upsampled bicubically. Sampling starts from noise. At each step the UNet
    reads ``[upsampled, noisy]`` and predicts the noise to remove::

        pipeline = SRDiffusionPipeline.from_pretrained('work_dirs/es_bi_diffsr_x2')
        image = pipeline(Image.open('small.png'), seed=0).images[0]

    Images are padded by reflection to multiples of the network's ``size_factor``. The
    result is cropped. Grey images become RGB.

    Args:
        unet: :class:`BIDiffSRUNet`; or a ``UNet2DModel`` whose input channels are those of
            condition and noisy image together; or such a model after ``binarize_unet``.
        scheduler: Any variance-preserving scheduler of diffusers. Default None:
            :func:`make_scheduler`'s, DDIM with the published schedule.
        scale: Magnification. Use 1 for images that are already upsampled. Default 2.
        x0_clip: With ``'data'`` the image ``x_0`` that follows from a prediction is clipped
            to the data's range [0, 1] at every step, for any scheduler. With
            ``'scheduler'`` the scheduler clips; DDIM clips to [-1, 1], as published.
            Default ``'data'``.

    Raises:
        ValueError: If an argument is not one of the allowed values, or if the scheduler
            does not match the network.

    Source: Chen et al., "Binarized Diffusion Model for Image Super-Resolution",
    arXiv 2406.05723.
    """

    #: Set by ``register_modules`` and ``register_to_config``.
    unet: Any
    scheduler: Any
    config: Any

    model_cpu_offload_seq = 'unet'  # type: ignore[assignment]  # of diffusers: None
    _optional_components = ['scheduler']

    @checked(unet=instance(nn.Module, 'a UNet'), scale=positive_int, x0_clip=one_of(*X0_CLIPS))
    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin | None = None,
        scale: int = 2,
        x0_clip: str = 'data',
    ) -> None:
        super().__init__()
        if 'encoder_hidden_states' in inspect.signature(unet.forward).parameters:
            raise ValueError(
                f'unet is a {type(unet).__name__}, which needs encoder_hidden_states; '
                'it must need only a sample and a timestep'
            )
        if getattr(unet, 'class_embedding', None) is not None:
            raise ValueError(
                f'unet is a {type(unet).__name__} with an embedding of classes, which needs '
                'class_labels; it must need only a sample and a timestep'
            )
        channels = unet.config.in_channels, unet.config.out_channels
        if channels != (6, 3):
            raise ValueError(
                f'unet has in_channels={channels[0]} and out_channels={channels[1]}; '
                'it must be 6 (condition and noisy image) and 3'
            )
        steps, kind = trained_for(unet)
        if scheduler is None:
            scheduler = make_scheduler(steps or 2000, prediction_type=kind or 'epsilon')
        check_scheduler(scheduler, steps, kind)
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(scale=scale, x0_clip=x0_clip)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> SRDiffusionPipeline:
        """Load a pipeline from a folder.

        The folder may come from an unknown source. Its JSON files may name only classes of
        this package and schedulers of diffusers. Weights must be safetensors. Nothing is
        fetched from a hub.

        Args:
            pretrained_model_name_or_path: Folder of the pipeline.
            **kwargs: Arguments of ``from_pretrained`` of diffusers, such as
                ``torch_dtype``, or components that replace those of the folder.

        Raises:
            FileNotFoundError: If the folder or a part of it is missing.
            ValueError: If it holds anything else, or is damaged.
        """
        folder = os.fspath(pretrained_model_name_or_path)
        check_pipeline(folder, [name for name in ('unet', 'scheduler') if kwargs.get(name)])
        # diffusers finds classes of other packages only in imported modules
        for module in _LAZY.values():
            import_module(f'.{module}', __package__)
        with loading(folder, 'unet'):
            pipeline = super().from_pretrained(folder, **{**kwargs, **LOCAL})
            if not kwargs.get('unet'):
                check_weights(pipeline.unet, Path(folder, 'unet'))
            return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> SRDiffusionPipeline:
        """Make a pipeline from the parts of another one, without copies of them.

        Args:
            pipeline: Pipeline with a UNet.
            **kwargs: As ``from_pipe`` of diffusers: ``torch_dtype``, or arguments of this
                class that replace the parts and options of ``pipeline``, such as ``scale``.

        Raises:
            ValueError: If a part is missing or does not fit.
        """
        # diffusers passes on models of the annotated class only, and here any UNet may come
        unet = getattr(pipeline, 'unet', None)
        given = {} if unet is None else {'unet': unet}
        return super().from_pipe(pipeline, **{**given, **kwargs})

    @torch.no_grad()
    @checked(
        scale=optional(positive_int),
        num_inference_steps=positive_int,
        seed=optional(integer(0, 2**64 - 1)),  # torch takes no larger one
        generator=optional(either(_GENERATOR, sequence(_GENERATOR))),
        latents=optional(instance(Tensor, 'a tensor')),
        eta=not_negative,
        tile_size=optional(positive_int),
        tile_overlap=natural,
        output_type=one_of(*OUTPUT_TYPES),
    )
    def __call__(
        self,
        image: Any,
        scale: int | None = None,
        num_inference_steps: int = 50,
        *,
        seed: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        eta: float = 0.0,
        tile_size: int | None = None,
        tile_overlap: int = TILE_OVERLAP,
        output_type: str = 'pil',
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Upscale images.

        Args:
            image: A PIL image, array or tensor, a batch, or a list of images of one
                size; see :func:`~mmesbnn.diffusion.image_input.to_tensor`.
            scale: Magnification. Default None: the pipeline's.
            num_inference_steps: Steps of the sampling. Default 50.
            seed: Seed of the noise, which is drawn on the CPU. It replaces ``generator``.
                Default None.
            generator: Generator of the noise, or one per image. Default None.
            latents: Initial noise of the padded size. It replaces ``seed`` and
                ``generator``. Default None.
            eta: Share of new noise in every step, for schedulers that support it (DDIM).
                Default 0.
            tile_size: Side of the tiles in pixels of the result, a multiple of
                ``size_factor``. The network processes a larger image tile by tile, and the
                predictions are blended at every step, so that there is no seam. Default
                None: the whole image, as published.
            tile_overlap: Smallest number of pixels that neighbouring tiles share. Default
                64.
            output_type: ``'pil'``; ``'np'``, ``(N, H, W, 3)``; or ``'pt'``,
                ``(N, 3, H, W)``. The values of the last two are in [0, 1]. Default
                ``'pil'``.
            return_dict: Whether to return an ``ImagePipelineOutput`` instead of a tuple.
                Default True.

        Returns:
            ``ImagePipelineOutput`` with the images as ``images``, or a tuple.

        Raises:
            ValueError: Before sampling, if an argument is not one of the allowed values, or if
                a scheduler that was set since does not match the network; after it, if the
                images are NaN or infinite.
        """
        scale = self.config.scale if scale is None else scale
        tiles = None if tile_size is None else (tile_size, tile_overlap)
        self._check(scale, num_inference_steps, tiles, output_type)
        small = to_tensor(image)
        if seed is not None:
            if generator is not None or latents is not None:
                raise ValueError(f'seed={seed} cannot be combined with generator or latents')
            generator = torch.Generator().manual_seed(seed)
        size = scale * small.shape[-2], scale * small.shape[-1]
        condition = self._condition(small, size)
        noise = self._noise(condition, generator, latents)
        with eval_mode(self.unet):  # switches off dropout
            x = self._sample(noise, condition, num_inference_steps, generator, eta, tiles)
        if not torch.isfinite(x).all():
            raise ValueError(
                f'the image is NaN or infinite after num_inference_steps={num_inference_steps} of '
                f'scheduler={type(self.scheduler).__name__}: take another scheduler, other '
                'options of it or fewer steps, if the weights of the network are finite'
            )
        images = self._output(x[..., : size[0], : size[1]], output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _check(
        self, scale: Any, steps: Any, tiles: tuple[int, int] | None, output_type: str
    ) -> None:
        # users replace the scheduler of a pipeline: pipeline.scheduler = ...
        check_scheduler(self.scheduler, *trained_for(self.unet))
        total = self.scheduler.config.num_train_timesteps
        if steps > total:
            raise ValueError(
                f'num_inference_steps={steps} is more than the {total} timesteps of the schedule'
            )
        if tiles is not None:
            check_tiles(*tiles, size_factor(self.unet))

    @property
    def _dtype(self) -> torch.dtype:
        """Return the dtype of intermediate results; the UNet's may be narrower."""
        return torch.promote_types(self.unet.dtype, torch.float32)

    def _condition(self, small: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the upsampled and padded images."""
        small = small.to(self._execution_device, self._dtype)
        return pad_reflect(resize(small, size).clamp(0, 1), size_factor(self.unet))

    @staticmethod
    def _noise(like: Tensor, generator: Any, latents: Tensor | None) -> Tensor:
        if latents is not None:
            if latents.shape != like.shape:
                raise ValueError(
                    f'latents has shape {tuple(latents.shape)}, the padded image '
                    f'{tuple(like.shape)}'
                )
            return latents.to(like)
        if isinstance(generator, list) and len(generator) != len(like):
            raise ValueError(
                f'generator is a list of {len(generator)}, but there are {len(like)} images'
            )
        return randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def _sample(
        self,
        noise: Tensor,
        condition: Tensor,
        steps: int,
        generator: Any,
        eta: float,
        tiles: tuple[int, int] | None,
    ) -> Tensor:
        try:
            self.scheduler.set_timesteps(steps, device=noise.device)
        except (ValueError, ArithmeticError) as error:  # some schedulers need several steps
            raise ValueError(
                f'num_inference_steps={steps} is not possible with '
                f'scheduler={type(self.scheduler).__name__} of this config: {sentence(error)}'
            ) from error
        x = noise * self.scheduler.init_noise_sigma
        timesteps = self.scheduler.timesteps.cpu()
        accepted = inspect.signature(self.scheduler.step).parameters
        options = dict(generator=generator, eta=eta)
        options = {name: options[name] for name in options if name in accepted}
        for index in self.progress_bar(range(len(timesteps))):
            t, own = timesteps[index], self.scheduler.timesteps[index]
            noisy = self.scheduler.scale_model_input(x, own)
            prediction = self._predict(condition, noisy, t, tiles)
            if self.config.x0_clip == 'data':
                levels = levels_of_step(self.scheduler, index, t)
                kind = self.scheduler.config.prediction_type
                prediction = clip_prediction(prediction, noisy, *levels, kind)
            x = self.scheduler.step(prediction, own, x, **options).prev_sample
        return x

    def _predict(
        self, condition: Tensor, noisy: Tensor, t: Tensor, tiles: tuple[int, int] | None
    ) -> Tensor:
        """Return the UNet's prediction in ``noisy``'s dtype, computed whole or tile by tile."""
        sample = torch.cat([condition, noisy], 1).to(self.unet.dtype)
        if tiles is None:
            return self.unet(sample, t, return_dict=False)[0].to(noisy.dtype)
        (tile, overlap), factor = tiles, size_factor(self.unet)
        rows, columns = (
            (tile_starts(length, tile, overlap, factor), min(tile, length))
            for length in noisy.shape[-2:]
        )
        total, weight = torch.zeros_like(noisy), torch.zeros_like(noisy[:1, :1])
        ramp = torch.outer(*(tile_weights(n, overlap) for n in (rows[1], columns[1])))
        ramp = ramp.to(noisy)
        for top, left in itertools.product(rows[0], columns[0]):
            part = (..., slice(top, top + rows[1]), slice(left, left + columns[1]))
            y = self.unet(sample[part], t, return_dict=False)[0]
            total[part] += ramp * y.to(noisy.dtype)
            weight[part] += ramp
        return total / weight

    @staticmethod
    def _output(x: Tensor, output_type: str) -> Any:
        images = x.clamp(0, 1)
        if output_type == 'pt':
            return images
        if output_type == 'np':
            return images.float().permute(0, 2, 3, 1).cpu().numpy()
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(image) for image in pixels]
