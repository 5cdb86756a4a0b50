"""What the exporter must know of a network's task: inputs, outputs, real examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..analysis.from_config import CONFIG, MODEL, InputError, input_shape, real_batch
from ..analysis.operators import inference
from ..checks import checked, mapping, optional, positive_int, sequence
from ..errors import sentence
from .describe import describe, describe_pipeline
from .detector_check import check_boxes
from .detector_graphs import OUTPUTS, detector_graph
from .manifest import ExportError

#: Photographs that come with scikit-image, and with scikit-learn.
PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')


@dataclass
class Task:
    """A network as it is exported.

    Attributes:
        graph: From the inputs to the outputs.
        input_names: Names of the inputs.
        output_names: Names of the outputs.
        shape: Channels, height and width of the images.
        manifest: ``task``, ``preprocessing``, ``classes`` and ``decoding``.
        images: Images to try it on, ``(N, C, H, W)``, normalised.
        source: What these are.
        remarks: Sentences for the export's report.
    """

    graph: nn.Module
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    shape: tuple[int, int, int]
    manifest: dict[str, Any]
    images: Tensor = field(default_factory=lambda: torch.empty(0))
    source: str = ''
    remarks: list[str] = field(default_factory=list)

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Inputs made of one image."""
        return (self.images[i : i + 1],)


class _Diffusion(nn.Module):
    """A UNet that returns its prediction alone."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Predict the noise in ``sample`` at ``timestep``."""
        return self.unet(sample, timestep, return_dict=False)[0]


class DiffusionTask(Task):
    """A UNet's inputs are an enlarged and a noisy image, and a timestep."""

    def example(self, i: int) -> tuple[Tensor, ...]:
        """Image ``i`` as condition, noise, and timesteps all over the schedule."""
        image = self.images[i : i + 1]
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(i))
        steps = len(self.manifest['decoding']['scheduler']['alphas_cumprod'])
        timestep = torch.tensor([float((i + 1) * steps // (len(self.images) + 1))])
        return torch.cat([image, noise], 1), timestep


def _photographs() -> list[np.ndarray]:
    """Real photographs that ship in libraries, noise if there are none."""
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
    """Bundled photographs, resized and normalised, ``(N, C, H, W)``."""
    channels, *size = shape
    images = []
    for photograph in _photographs():
        image = torch.as_tensor(photograph.copy()).permute(2, 0, 1)[None].float()
        images.append(F.interpolate(image, size, mode='bilinear', antialias=True))
    mean, std = (torch.tensor(preprocessing[name]).view(1, -1, 1, 1) for name in ('mean', 'std'))
    x = (torch.cat(images) - mean) / std
    return x if channels == 3 else x.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _test_images(
    cfg: Config, model: nn.Module, shape: tuple[int, int, int], count: int
) -> Tensor | None:
    """Preprocessed images of the config's test data, None if there are none."""
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
    channels, height, width = input_shape(cfg, tuple(size) if size else None)
    if size and (height % multiple or width % multiple):
        raise ExportError(f'--shape {height} {width}: must be multiples of {multiple} here')
    return channels, -(-height // multiple) * multiple, -(-width // multiple) * multiple


def _describe_diffusion(model: nn.Module) -> dict[str, Any]:
    if model.sampling.get('eta'):
        raise ExportError(
            f'sampling: eta={model.sampling["eta"]} must be 0, the runner adds no fresh noise'
        )
    return describe_pipeline(model.to_pipeline(), model.sampling['num_inference_steps'])


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
    """Say how ``model`` is exported.

    Args:
        cfg: Its config, of mmpretrain, mmdet, or one with ``SRDiffusion``.
        model: What was built from it, with its weights.
        size: Height and width of the images. Default None: the config's.
        count: How many images to try it on. Default 4.
        dataset_meta: That of the checkpoint, for the names of classes. Default None.

    Raises:
        ExportError: If this kind of network is not exported.
    """
    if hasattr(model, 'to_pipeline'):
        manifest = _describe_diffusion(model)
        multiple = manifest['decoding']['multiple']
        _, *size = _shape_of(cfg, size or (64, 64), multiple)
        task: Task = DiffusionTask(
            _Diffusion(model.unet), ('sample', 'timestep'), ('noise',), (3, *size), manifest
        )
        task.images = photographs(task.shape, {'mean': [0.0] * 3, 'std': [255.0] * 3})
        task.source = 'bundled photographs'
        return task
    manifest = describe(cfg, dataset_meta)
    if manifest['task'] == 'detection':
        divisor = manifest['preprocessing'].get('pad_divisor', 1)
        graph = detector_graph(model)
        shape = _shape_of(cfg, size, divisor)
        task = Task(graph, ('image',), OUTPUTS, shape, manifest)
    else:
        shape = _shape_of(cfg, size, 1)
        task = Task(model, ('image',), ('logits',), shape, manifest)
    images = _test_images(cfg, model, task.shape, count)
    task.source = 'test images of the config'
    if images is None:
        images = photographs(task.shape, manifest['preprocessing'])
        task.source = 'bundled photographs'
    task.images = images[:count]
    if manifest['task'] == 'detection':
        _check_detector(task, model)
    return task


def _check_detector(task: Task, detector: nn.Module) -> None:
    """Name the outputs of a detector's graph, and compare its boxes with mmdet's."""
    try:
        with inference(task.graph):
            count = len(task.graph(*task.example(0)))
        task.output_names = OUTPUTS[:count]
        decoding = {**task.manifest['decoding'], 'levels': task.graph.levels}
        found = check_boxes(detector, task.graph, task.output_names, decoding, task.images)
    except ExportError:
        raise
    except Exception as error:  # whatever a head of another kind does not have
        head = getattr(detector, 'roi_head', detector).bbox_head
        names = f'{type(detector).__name__} with {type(head).__name__}'
        raise ExportError(
            f'{names} is not exported: its outputs are not class scores and box codes '
            f'of every level ({sentence(error)})'
        ) from error
    task.manifest['decoding'] = decoding
    height, width = task.shape[1:]
    task.remarks += [
        found,
        f"boxes equal mmdet's only for images that fill {height} x {width} pixels: others are "
        'padded to it, where mmdet pads to its divisor',
    ]
