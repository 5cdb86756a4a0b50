"""A detector from the image to its boxes: by mmdet, and by the two engines of a Runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from published_style import published_style
from torch import Tensor, nn

from mmesbnn.analysis import build_model
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.datasets.photographs import load_photograph
from mmesbnn.deploy import Runner, make_task, read_manifest, write_manifest
from mmesbnn.deploy.tasks.detector_graphs import takes_one_image
from mmesbnn.deploy.tasks.images import photographs, shape_of
from mmesbnn.deploy.tasks.preprocessing import preprocessing_of
from mmesbnn.project import testing_pipeline

from .exports import runs_natively, write_export
from .forms import with_instruction_set
from .measuring import Run
from .names import BITS, NATIVE, PUBLISHED

#: Number of boxes that pass the threshold of scores, and enter the suppression.
CANDIDATES = 300


class _Maps(nn.Module):
    """The detector's raw outputs, also for heads that need the size of the images."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        from mmdet.structures import DetDataSample

        size = tuple(images.shape[-2:])
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples = [DetDataSample(metainfo=meta) for _ in images]
        return self.detector(images, samples, mode='tensor')


class Detector:
    """Detector with random weights, and one photograph that fills its input.

    Scores of random weights are near each other. So the threshold of scores is set to the value
    that :data:`CANDIDATES` scores of the photograph pass. Otherwise the suppression would take
    no time, or most of the time.

    Args:
        cfg: Config of the detector.
        folder: Empty folder for files.
        forms: Native contenders with their instruction sets.

    Attributes:
        shape: Channels, height and width of the network's input.
        boxes: Number of boxes that it finds.
    """

    def __init__(self, cfg: Config, folder: Path, forms: dict[str, str]) -> None:
        self.cfg, self.forms, self.export = cfg, forms, folder / 'export'
        preprocessing = preprocessing_of(cfg)
        self.shape = shape_of(cfg, None, multiple=preprocessing.pad_divisor)
        torch.manual_seed(0)
        model = build_model(cfg)
        lifelike(_Maps(model), photographs(self.shape, preprocessing, 2)[0])
        task = make_task(cfg, model, count=1)
        self.one_image = takes_one_image(task.graph)
        write_export(task, self.export, dynamic_batch=not self.one_image)
        self.image = fitting_photograph(*shape_of(cfg, None, multiple=1)[1:])
        runner = Runner(self.export, threads=1)
        threshold = self._set_threshold(runner)
        self.boxes = len(Runner(self.export, threads=1)(self.image)['scores'])
        self.published = published_style(model)
        _tests(self.published)['score_thr'] = threshold

    def _set_threshold(self, runner: Runner) -> float:
        """Choose the threshold of scores, write it to the export and return it."""
        array = runner.preprocess(self.image)[0]
        height, width = self.shape[1:]
        padding = ((0, 0), (0, height - array.shape[1]), (0, width - array.shape[2]))
        scores = runner.infer(np.pad(array, padding)[None])['scores'].ravel()
        threshold = float(np.sort(scores)[-min(CANDIDATES, len(scores))])
        manifest = read_manifest(self.export)
        decoding = replace(manifest.decoding, score_thr=threshold)
        write_manifest(self.export, replace(manifest, decoding=decoding))
        return threshold

    def make(self, name: str, threads: int, batch: int) -> Run | None:
        """Return a function that runs a contender once; None if it cannot run."""
        if name == PUBLISHED:
            return self._mmdet() if batch == 1 else None
        if name != BITS and not runs_natively(self.export):
            return None
        images, at_once = [self.image] * batch, 1 if self.one_image else batch

        def load() -> Run:
            engine = 'openvino' if name == BITS else 'native'
            runner = Runner(self.export, engine=engine, threads=threads)
            return lambda: runner(images, batch_size=at_once)

        if name == BITS:
            return load()
        return with_instruction_set(load, self.forms[name], usual=self.forms[NATIVE])

    def _mmdet(self) -> Run:
        """Return a function that detects with mmdet, as its ``inference_detector`` does."""
        pipeline = _array_pipeline(self.cfg)
        image = np.ascontiguousarray(self.image[..., ::-1])  # mmdet reads blue first

        def run() -> Any:
            with torch.no_grad():
                data = pipeline(dict(img=image, img_id=0))
                return self.published.test_step(pseudo_collate([data]))

        return run


def fitting_photograph(height: int, width: int) -> np.ndarray:
    """Return the middle of a photograph with the proportions of a network's input.

    Returns:
        Array ``(H, W, 3)`` of uint8.
    """
    image = load_photograph('coffee').permute(1, 2, 0).numpy()
    scale = min(image.shape[0] / height, image.shape[1] / width)
    sides = [round(scale * side) for side in (height, width)]
    top, left = ((whole - side) // 2 for whole, side in zip(image.shape, sides))
    return np.ascontiguousarray(image[top : top + sides[0], left : left + sides[1]])


def _tests(model: Any) -> Any:
    """Return the settings by which mmdet's model chooses boxes."""
    head = getattr(model, 'roi_head', None)
    return model.bbox_head.test_cfg if head is None else head.test_cfg


def _array_pipeline(cfg: Config) -> Compose:
    """Return the config's test pipeline for an image in memory."""
    init_default_scope('mmdet')
    steps = [step for step in testing_pipeline(cfg) if step['type'] != 'LoadAnnotations']
    keys = ('ori_shape', 'img_shape', 'scale_factor')
    steps[0] = dict(type='LoadImageFromNDArray')
    steps[-1] = dict(type='PackDetInputs', meta_keys=keys)
    return Compose(steps)
