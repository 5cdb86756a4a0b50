"""Exporting UNets that upscale images by diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ...models.restorers import SRDiffusion
from ...seeded import drawn
from ..runtime.manifest import ExportError, fitting
from ..runtime.sampling_settings import Scheduler, SuperResolutionDecoding
from ..runtime.steps import Preprocessing
from ..runtime.super_resolution import SuperResolution
from .export_task import ExportTask, register_export
from .images import photographs, shape_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: The images themselves are enlarged, not resized or normalised.
PREPROCESSING = Preprocessing(steps=(), mean=(0.0,) * 3, std=(255.0,) * 3, to_rgb=True)


def sampling_decoding(pipeline: Any, num_inference_steps: int = 50) -> SuperResolutionDecoding:
    """Return how a pipeline samples.

    Args:
        pipeline: A :class:`mmesbnn.diffusion.SRDiffusionPipeline`, whose UNet is exported.
        num_inference_steps: Steps that the runner makes by default. Default 50.

    Raises:
        ExportError: If its scheduler is not DDIM with evenly leading timesteps, or has
            dynamic thresholds.
    """
    from ...diffusion.pipeline import size_factor

    scheduler = pipeline.scheduler
    config, name = scheduler.config, type(scheduler).__name__
    if name != 'DDIMScheduler' or config.timestep_spacing != 'leading':
        raise ExportError(
            f'scheduler={name} with timestep_spacing={config.timestep_spacing!r}: the '
            "runner knows DDIMScheduler with 'leading' only"
        )
    if config.thresholding:
        raise ExportError(
            f'scheduler={name} with thresholding=True: the runner clips to clip_sample_range only'
        )
    with fitting('scheduler'):
        return SuperResolutionDecoding(
            scale=pipeline.config.scale,
            upsampling='matlab_bicubic',
            multiple=size_factor(pipeline.unet),
            x0_clip=pipeline.config.x0_clip,
            scheduler=Scheduler(
                alphas_cumprod=tuple(scheduler.alphas_cumprod.tolist()),
                final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
                prediction_type=config.prediction_type,
                clip_sample_range=config.clip_sample_range if config.clip_sample else None,
                steps_offset=config.steps_offset,
                num_inference_steps=num_inference_steps,
            ),
        )


class _Denoiser(nn.Module):
    """A UNet that returns its prediction alone."""

    unet: Any  # one of diffusers

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise in ``sample`` at ``timestep``."""
        return self.unet(sample, timestep, return_dict=False)[0]


@register_export
@dataclass(frozen=True, kw_only=True)
class SuperResolutionExport(ExportTask):
    """A UNet: its inputs are an enlarged and a noisy image, and a timestep."""

    RUNNER = SuperResolution

    decoding: SuperResolutionDecoding

    @classmethod
    def accepts(cls, cfg: Config, model: nn.Module) -> bool:
        return isinstance(model, SRDiffusion)

    @classmethod
    def make(
        cls,
        cfg: Config,
        model: SRDiffusion,
        *,
        size: Sequence[int] | None,
        count: int,
        dataset_meta: Mapping[str, Any] | None,
    ) -> Self:
        sampling = model.sampling
        if sampling.get('eta'):
            raise ExportError(
                f'sampling: eta={sampling["eta"]} must be 0, the runner adds no fresh noise'
            )
        decoding = sampling_decoding(model.to_pipeline(), sampling['num_inference_steps'])
        _, height, width = shape_of(cfg, size or (64, 64), decoding.multiple)
        images, source = photographs((3, height, width), PREPROCESSING, count)
        return cls(
            graph=_Denoiser(model.unet),
            input_names=('sample', 'timestep'),
            output_names=('noise',),
            preprocessing=PREPROCESSING,
            classes=None,
            decoding=decoding,
            images=images,
            source=source,
        )

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Return image ``i`` as condition, noise, and a timestep somewhere in the schedule."""
        image = self.images[i : i + 1]
        noise = drawn(image.shape, seed=i)
        steps = len(self.decoding.scheduler.alphas_cumprod)
        timestep = image.new_tensor([(i + 1) * steps // (len(self.images) + 1)])
        return torch.cat([image, noise], 1), timestep
