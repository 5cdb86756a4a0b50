"""Comparison of the labels that all forms of a trained classifier give."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..binary.modes import inference
from ..checks import Rule, checked, mapping, positive_int
from ..errors import sentence
from ..native import NativeError
from ..project import build_test_loader
from .runtime.images import read_image
from .runtime.manifest import ExportError
from .runtime.network import ENGINES
from .runtime.runner import Runner

#: Names of a runner's engines in tables.
_SHOWN = {'native': 'native', 'openvino': 'OpenVINO'}


@dataclass(frozen=True)
class Form:
    """Results of one form of a network.

    Attributes:
        name: Name of the form, such as ``'OpenVINO'``.
        labels: Label of every image.
        scores: Scores ``(N, classes)``.
    """

    name: str
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """Labels of several forms of a network on the same images.

    Attributes:
        files: Names of the images.
        truth: True label of every image.
        forms: Forms; the others are compared with the first one.
    """

    files: Sequence[str]
    truth: np.ndarray
    forms: Sequence[Form]

    @property
    def different(self) -> dict[str, int]:
        """Number of labels of each other form that differ from the first form's."""
        first, *others = self.forms
        return {o.name: int((o.labels != first.labels).sum()) for o in others}

    def table(self) -> str:
        """Return the comparison as text."""
        first, count = self.forms[0], len(self.truth)
        lines = []
        for form in self.forms:
            right = (form.labels == self.truth).mean()
            text = f'{form.name:<12}{right:>8.2%} right'
            if form is not first:
                same = int((form.labels == first.labels).sum())
                apart = float(np.abs(form.scores - first.scores).max())
                text += f', the same label for {same} of {count} images'
                text += f', scores differ by {apart:.2g} at most'
            lines.append(text)
        return '\n'.join(lines)


def _form(name: str, scores: list[np.ndarray]) -> Form:
    stacked = np.stack(scores)
    return Form(name, stacked.argmax(1), stacked)


#: The images' true labels come with the results of a network in torch.
MODELS = Rule(
    'a dict with one network in torch or more', lambda x: mapping().accepts(x) and len(x) > 0
)


@checked(models=MODELS, runners=mapping(), batch_size=positive_int)
def compare_forms(
    cfg: Config, models: Mapping[str, Any], runners: Mapping[str, Runner], batch_size: int = 64
) -> Agreement:
    """Classify all test images of a config with every form of a network.

    Models get the images through the config's own test pipeline. Runners read the files.

    Args:
        cfg: Config of mmpretrain.
        models: Networks in torch, by name, one or more; the others are compared with the first one.
        runners: Exports, by name.
        batch_size: Number of images per batch. Default 64.

    Raises:
        InputError: If there is no test data.
    """
    in_order = dict(type='DefaultSampler', shuffle=False)
    loader = build_test_loader(cfg, batch_size, sampler=in_order)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in (*models, *runners)}
    truth: list[int] = []
    for batch in loader:
        for name, model in models.items():
            with inference(model):
                samples = model.test_step(batch)
            scores[name] += [sample.pred_score.numpy() for sample in samples]
        truth += [int(sample.gt_label) for sample in samples]
    dataset: Any = loader.dataset
    files = [dataset.get_data_info(i)['img_path'] for i in range(len(truth))]
    for name, runner in runners.items():
        results = runner.stream(files, batch_size)
        scores[name] += [result['pred_scores'] for result in results]
    forms = [_form(name, values) for name, values in scores.items()]
    return Agreement(files, np.array(truth), forms)


def time_in_turn(
    contenders: Mapping[str, Callable[[], Any]], repeats: int = 50
) -> dict[str, float]:
    """Measure the median seconds of calls that alternate, so that load affects all alike.

    Args:
        contenders: Functions to call, by name.
        repeats: Number of measured rounds, after five warm-up rounds. Default 50.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(repeats + 5):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            if i >= 5:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def runners_of(export: str | os.PathLike[str]) -> tuple[dict[str, Runner], dict[str, str]]:
    """Open an export with every engine that can run it here, the default one first.

    Args:
        export: Folder of the export.

    Returns:
        Runners by the names of their engines, and reasons why engines are left out.

    Raises:
        ExportError: If the default engine cannot run it; or as :class:`mmesbnn.deploy.Runner`.
    """
    first = Runner(export)
    runners, left_out = {_SHOWN[first.engine]: first}, {}
    for engine in ENGINES:
        if engine == first.engine:
            continue
        try:
            runners[_SHOWN[engine]] = Runner(export, engine=engine)
        except (ExportError, ImportError, NativeError) as error:
            left_out[_SHOWN[engine]] = sentence(error)
    return runners, left_out


def latency_line(model: nn.Module, runners: Mapping[str, Runner], source: Any) -> str:
    """Return a line with the time per image in torch and in every engine, without reading it.

    Args:
        model: Network in torch.
        runners: Export of the network, by the name of the engine.
        source: Image to run.
    """
    array, _, _ = next(iter(runners.values())).preprocess(read_image(source))
    tensor, batch = torch.from_numpy(array)[None], array[None]
    contenders: dict[str, Callable[[], Any]] = {'torch': lambda: model(tensor)}
    for name, runner in runners.items():
        contenders[name] = partial(runner.infer, batch)
    with inference(model):
        times = time_in_turn(contenders)
    base = times.pop('torch')
    parts = [
        f'{name} {1000 * t:.2f} ms ({base / t:.1f} times as fast)' for name, t in times.items()
    ]
    first = f'torch {1000 * base:.2f} ms'
    return f'one image: {", ".join([first, *parts])}, medians of 50 alternating runs'
