"""Settings of diffusion super-resolution in a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import LEAST_DIVISOR, Integer, ListOf, Maybe, Nested, Number, OneOf, Part, Unfit, entry


@dataclass(frozen=True, kw_only=True)
class Scheduler(Part):
    """Noise levels of DDIM with leading spacing.

    Attributes:
        alphas_cumprod: Square of the signal's factor at each timestep.
        final_alpha_cumprod: Square of the signal's factor after the last step.
        prediction_type: Meaning of the network's output: ``'epsilon'``, ``'sample'`` or
            ``'v_prediction'``.
        clip_sample_range: Largest magnitude of the predicted image; None is any.
        steps_offset: Smallest timestep.
        num_inference_steps: Default number of steps.
    """

    alphas_cumprod: tuple[float, ...] = entry(ListOf(Number(0, 1), 1, 10**5))
    final_alpha_cumprod: float = entry(Number(0, 1))
    prediction_type: str = entry(OneOf(('epsilon', 'sample', 'v_prediction')))
    clip_sample_range: float | None = entry(Maybe(Number(0, 1e6, above=True)))
    steps_offset: int = entry(Integer(0, 10**5))
    num_inference_steps: int = entry(Integer(1, 10**5))

    def check_relations(self) -> None:
        levels, steps = self.alphas_cumprod, self.num_inference_steps
        if steps > len(levels):
            rule = f'at most {len(levels)}, the length of alphas_cumprod'
            raise Unfit('num_inference_steps', steps, rule)
        if (steps - 1) * (len(levels) // steps) + self.steps_offset >= len(levels):
            rule = f'such that {steps} steps end before {len(levels)}'
            raise Unfit('steps_offset', self.steps_offset, rule)
        # the image is divided by the signal's factor
        if self.prediction_type == 'epsilon' and min(levels) < LEAST_DIVISOR:
            raise Unfit('alphas_cumprod', min(levels), f'at least {LEAST_DIVISOR:g}')


@dataclass(frozen=True, kw_only=True)
class SuperResolutionDecoding(Part):
    """Settings of diffusion super-resolution.

    Attributes:
        scale: Magnification of height and width.
        upsampling: Method that enlarges the condition.
        multiple: Height and width of the network's input are multiples of it.
        x0_clip: ``'data'`` clips predicted images to the range of the data, before the
            scheduler does; with ``'scheduler'`` only the scheduler clips them.
        scheduler: Noise levels.
    """

    scale: int = entry(Integer(1, 64))
    upsampling: str = entry(OneOf(('matlab_bicubic',)))
    multiple: int = entry(Integer(1, 2**12))
    x0_clip: str = entry(OneOf(('data', 'scheduler')))
    scheduler: Scheduler = entry(Nested(Scheduler))

    def check_relations(self) -> None:
        # the error is divided by the noise's factor
        divides = self.scheduler.prediction_type == 'sample' or self.x0_clip == 'data'
        most = max(self.scheduler.alphas_cumprod)
        if divides and most >= 1:
            raise Unfit('scheduler.alphas_cumprod', most, 'below 1')
