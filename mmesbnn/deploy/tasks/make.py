"""Tasks of networks, for the exporters: inputs, outputs and real examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ...analysis.operators import inference
from ...checks import checked, mapping, optional, positive_int, sequence
from ...errors import sentence
from ...project import InputError, input_shape, real_batch
from ...project.config import CONFIG, MODEL
from ..runtime.detection_decoding import DetectionDecoding
from ..runtime.manifest import ExportError
from .describe import describe, describe_pipeline
from .detector_check import check_boxes
from .detector_graphs import OUTPUTS, detector_graph

#: Photographs that come with scikit-image, and with scikit-learn.
PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')

#: Name for them in reports.
BUNDLED = 'bundled photographs'


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network as it is exported.

    Attributes:
        graph: From the inputs to the outputs.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        manifest: ``task``, ``preprocessing``, ``classes`` and ``decoding``.
        images: Images to try it on, ``(N, C, H, W)``, normalised.
        source: Name for these images.
        remarks: Sentences for the export's report.
    """

    graph: nn.Module
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    manifest: dict[str, Any]
    images: Tensor
    source: str
    remarks: tuple[str, ...] = ()

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Return the inputs made of image ``i``."""
        return (self.images[i : i + 1],)


class _Diffusion(nn.Module):
    """A UNet that returns its prediction alone."""

    unet: Any  # one of diffusers

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise in ``sample`` at ``timestep``."""
        return self.unet(sample, timestep, return_dict=False)[0]


class DiffusionTask(Task):
    """Task of a UNet: its inputs are an enlarged and a noisy image, and a timestep."""

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Return image ``i`` as condition, noise, and a timestep somewhere in the schedule."""
        image = self.images[i : i + 1]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(i))
        steps = len(self.manifest['decoding']['scheduler']['alphas_cumprod'])
        timestep = torch.tensor([float((i + 1) * steps // (len(self.images) + 1))])
        return torch.cat([image, noise], 1), timestep


def _photographs() -> list[np.ndarray]:
    """Load real photographs that ship in libraries, or draw noise if there are none."""
    try:
        from skimage import data

        return [np.asarray(getattr(data, name)())[..., :3] for name in PHOTOGRAPHS]
    except ImportError:
        pass
    try:
        from sklearn.datasets import load_sample_images

        return [np.asarray(image) for image in load_sample_images().images]
    except ImportError:
        generator = np.random.default_rng(0)
        return [generator.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(4)]


def photographs(shape: tuple[int, int, int], preprocessing: dict[str, Any]) -> Tensor:
    """Resize and normalise bundled photographs to ``(N, C, H, W)``."""
    channels, *size = shape
    images = []
    for photograph in _photographs():
        image = torch.as_tensor(photograph.copy()).permute(2, 0, 1)[None].float()
        images.append(F.interpolate(image, size, mode='bilinear', antialias=True))
    mean, std = (torch.tensor(preprocessing[name]).view(1, -1, 1, 1) for name in ('mean', 'std'))
    x = (torch.cat(images) - mean) / std
    return x if channels == 3 else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _test_images(cfg: Config, model: Any, shape: tuple[int, int, int], count: int) -> Tensor | None:
    """Return preprocessed images of the config's test data, None if there are none."""
    try:
        batch = real_batch(cfg, count)
        inputs = model.data_preprocessor(batch, False)['inputs']
    except (InputError, ImportError, OSError, RuntimeError, KeyError):
        return None
    if not isinstance(inputs, Tensor) or inputs.shape[1] != shape[0]:
        return None
    height, width = shape[1:]
    inputs = inputs.float()[..., :height, :width]
    padding = (0, width - inputs.shape[-1], 0, height - inputs.shape[-2])
    return F.pad(inputs, padding)


def _shape_of(cfg: Config, size: Sequence[int] | None, multiple: int) -> tuple[int, int, int]:
    channels, height, width = input_shape(cfg, (size[0], size[1]) if size else None)
    if size and (height % multiple or width % multiple):
        raise ExportError(f'--shape {height} {width}: must be multiples of {multiple} here')
    return channels, -(-height // multiple) * multiple, -(-width // multiple) * multiple


def _images(
    cfg: Config,
    model: nn.Module,
    shape: tuple[int, int, int],
    count: int,
    preprocessing: dict[str, Any],
) -> tuple[Tensor, str]:
    """Return test images of the config, or photographs where there are none, and their name."""
    images = _test_images(cfg, model, shape, count)
    if images is not None:
        return images[:count], 'test images of the config'
    return photographs(shape, preprocessing)[:count], BUNDLED


def _describe_diffusion(model: Any) -> dict[str, Any]:
    if model.sampling.get('eta'):
        raise ExportError(
            f'sampling: eta={model.sampling["eta"]} must be 0, the runner adds no fresh noise'
        )
    return describe_pipeline(model.to_pipeline(), model.sampling['num_inference_steps'])


def _diffusion_task(
    cfg: Config, model: Any, size: Sequence[int] | None, count: int, manifest: dict[str, Any]
) -> Task:
    _, height, width = _shape_of(cfg, size or (64, 64), manifest['decoding']['multiple'])
    return DiffusionTask(
        graph=_Diffusion(model.unet),
        input_names=('sample', 'timestep'),
        output_names=('noise',),
        manifest=manifest,
        images=photographs((3, height, width), {'mean': [0.0] * 3, 'std': [255.0] * 3}),
        source=BUNDLED,
    )


def _classification_task(
    cfg: Config, model: nn.Module, size: Sequence[int] | None, count: int, manifest: dict[str, Any]
) -> Task:
    shape = _shape_of(cfg, size, multiple=1)
    images, source = _images(cfg, model, shape, count, manifest['preprocessing'])
    return Task(
        graph=model,
        input_names=('image',),
        output_names=('logits',),
        manifest=manifest,
        images=images,
        source=source,
    )


def _shape_remark(shape: tuple[int, int, int]) -> str:
    _, height, width = shape
    return (
        f"boxes equal mmdet's only for images that fill {height} x {width} pixels: others are "
        'padded to it, where mmdet pads to its divisor'
    )


def _detection_task(
    cfg: Config, model: nn.Module, size: Sequence[int] | None, count: int, manifest: dict[str, Any]
) -> Task:
    """Export a detector, after comparing its boxes with mmdet's."""
    graph = detector_graph(model)
    shape = _shape_of(cfg, size, multiple=manifest['preprocessing'].get('pad_divisor', 1))
    images, source = _images(cfg, model, shape, count, manifest['preprocessing'])
    try:
        with inference(graph):
            candidates = graph.candidates(images[:1])
        names = OUTPUTS[: len(candidates.outputs())]
        decoding = {**manifest['decoding'], 'levels': candidates.levels}
        settings = DetectionDecoding.from_dict(decoding, 'decoding')
        agreement = check_boxes(model, graph, names, settings, images)
    except ExportError:
        raise
    except Exception as error:  # heads of another kind lack attributes of any name
        head: Any = getattr(model, 'roi_head', model)
        kind = f'{type(model).__name__} with {type(head.bbox_head).__name__}'
        raise ExportError(
            f'{kind} is not exported: its outputs are not class scores and box codes '
            f'of every level ({sentence(error)})'
        ) from error
    return Task(
        graph=graph,
        input_names=('image',),
        output_names=names,
        manifest={**manifest, 'decoding': decoding},
        images=images,
        source=source,
        remarks=(agreement, _shape_remark(shape)),
    )


_Maker = Callable[[Config, Any, 'Sequence[int] | None', int, 'dict[str, Any]'], Task]
#: Functions that make a :class:`Task`, by the name of the task in the manifest.
_MAKERS: dict[str, _Maker] = {
    'classification': _classification_task,
    'detection': _detection_task,
    'super_resolution': _diffusion_task,
}


@checked(
    cfg=CONFIG,
    model=MODEL,
    size=optional(sequence(positive_int, length=2)),
    count=positive_int,
    dataset_meta=optional(mapping()),
)
def make_task(
    cfg: Config,
    model: nn.Module,
    size: Sequence[int] | None = None,
    count: int = 4,
    dataset_meta: Any = None,
) -> Task:
    """Describe how ``model`` is exported.

    Args:
        cfg: Its config, of mmpretrain, mmdet, or one with ``SRDiffusion``.
        model: The network built from it, with its weights.
        size: Height and width of the images. Default None: the config's.
        count: How many images to try it on. Default 4.
        dataset_meta: That of the checkpoint, for the names of classes. Default None.

    Raises:
        ExportError: If this kind of network is not exported.
    """
    diffusion = hasattr(model, 'to_pipeline')
    manifest = _describe_diffusion(model) if diffusion else describe(cfg, dataset_meta)
    return _MAKERS[manifest['task']](cfg, model, size, count, manifest)
