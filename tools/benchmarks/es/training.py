"""One training, and its record."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import ShrunkConv2d
from mmesbnn.datasets.crops import Crops
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters, clamp_parameters
from mmesbnn.engine.reach import temperature_weights
from mmesbnn.engine.temperature_schedule import temperature_schedule

from .forms import BASELINE, Form, Setting
from .networks import Network

#: Number of regions.
CLASSES = 100
#: Deviation of the noise; that of the crops is about 1.
NOISE = 0.5
#: Batches of 256 crops that a figure is measured on.
JUDGED = 16


@lru_cache(maxsize=1)
def _crops(size: int, shrink: int, device: str) -> Crops:
    return Crops(size, shrink, CLASSES, device)


class Task:
    """Batches and losses of a task.

    Args:
        setting: What is trained.
        device: Where.
    """

    def __init__(self, setting: Setting, device: str) -> None:
        self.crops = _crops(setting.size, setting.shrink, device)
        self.regions = setting.task == 'regions'

    def batch(
        self, count: int, rng: torch.Generator, held_out: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets."""
        images, labels = self.crops.draw(count, rng, held_out)
        if self.regions:
            return images, labels
        noise = torch.randn(images.shape, generator=rng).to(images.device)
        return images + NOISE * noise, images

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return cross entropy, or the mean squared error."""
        if self.regions:
            return F.cross_entropy(output, target)
        return F.mse_loss(output, target)

    @torch.no_grad()
    def judge(self, model: nn.Module, held_out: bool) -> dict[str, float]:
        """Return the loss and the score (% right, or dB) on fresh crops."""
        rng = torch.Generator().manual_seed(10_000)
        model.eval()
        losses, right = [], []
        for _ in range(JUDGED):
            x, target = self.batch(256, rng, held_out)
            output = model(x)
            losses.append(self.loss(output, target))
            if self.regions:
                right.append((output.argmax(1) == target).float().mean())
        model.train()
        loss = torch.stack(losses).mean().item()
        score = 100 * torch.stack(right).mean().item() if right else -10 * math.log10(loss)
        return {'loss': loss, 'score': score}


@torch.no_grad()
def diversity(model: nn.Module, x: Tensor) -> dict[str, list[float]]:
    """Per binary convolution: correlation of its input's copies, rank of its input.

    The rank is the effective one of the signs, ``tr(C)^2 / tr(C^2)`` of their
    correlation ``C`` over crops and pixels.
    """
    rows: list[tuple[float, float]] = []

    def look(layer: ShrunkConv2d, args: tuple[Tensor], output: Tensor) -> None:
        signs = (args[0] > 0).float().transpose(0, 1).flatten(1)
        z = signs - signs.mean(1, keepdim=True)
        z = z / z.norm(dim=1, keepdim=True).clamp(min=1e-6)
        copies = layer.expansion.copies
        total = z.unflatten(0, (copies, -1)).sum(0).square().sum(1)
        alike = ((total - copies) / max(copies * (copies - 1), 1)).mean().item()
        rows.append((alike, z.square().sum().item() ** 2 / (z @ z.T).square().sum().item()))

    layers = [x for x in model.modules() if isinstance(x, ShrunkConv2d)]
    hooks = [x.register_forward_hook(look) for x in layers]
    model.eval()
    model(x)
    model.train()
    for hook in hooks:
        hook.remove()
    return {'alike': [round(a, 3) for a, _ in rows], 'rank': [round(b, 1) for _, b in rows]}


def optimizer_of(model: nn.Module, setting: Setting) -> tuple[Any, Any]:
    """Return the product's optimizer and a one-cycle schedule."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=setting.lr, weight_decay=1e-3, fused=True),
            constructor='BinaryOptimWrapperConstructor',
        ),
    )
    warm = max(0.05, 2 / setting.iters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        wrapper.optimizer, setting.lr, setting.iters, pct_start=warm
    )
    return wrapper, schedule


#: What forms of equal cost have in common, as ``count_ops`` names it.
COSTS = ('ops', 'fp_macs', 'bops', 'binary_params')


def costs(model: nn.Module, setting: Setting) -> dict[str, float]:
    """Count the operations and the binary weights of a network."""
    total = count_ops(model, (3, setting.size, setting.size)).total
    return {name: total[name] for name in COSTS}


def check_costs(setting: Setting, forms: Iterable[Form]) -> None:
    """Raise an error unless all forms cost exactly what the baseline does.

    Raises:
        RuntimeError: If one does not, and is not known to cost more.
    """
    wanted = costs(Network(setting, BASELINE, CLASSES), setting)
    for form in forms:
        counted = costs(Network(setting, form, CLASSES), setting)
        if counted != wanted and not form.costs_more:
            raise RuntimeError(f'{form} costs {counted}, the baseline {wanted}')


def train(setting: Setting, form: Form, seed: int, device: str = 'cpu') -> dict[str, Any]:
    """Train a form once and return its record."""
    torch.manual_seed(seed)
    task = Task(setting, device)
    model = Network(setting, form, CLASSES).to(device)
    probe = task.batch(256, torch.Generator().manual_seed(5))[0]
    record: dict[str, Any] = dict(
        asdict(setting),
        form=str(form),
        seed=seed,
        **costs(model, setting),
        diversity={'start': diversity(model, probe)},
    )
    start = time.perf_counter()
    record['curve'] = _fit(model, task, setting, form, seed)
    record['seconds'] = round(time.perf_counter() - start, 3)
    record['diversity']['end'] = diversity(model, probe)
    findings = check_binary(model, probe[:2])
    if bool(findings) != form.real:
        raise RuntimeError(f'{form} must {"not " if form.real else ""}be binary: {findings[:1]}')
    return dict(record, fit=task.judge(model, False), test=task.judge(model, True))


def _recorded(model: Network, x: Tensor) -> Network:
    """Record the kernels of a step on a GPU, where their launches take most of the time."""
    state = copy.deepcopy(model.state_dict())
    model = torch.cuda.make_graphed_callables(model, (x,))
    model.load_state_dict(state)  # the statistics before the recording
    return model


def _fit(model: Network, task: Task, setting: Setting, form: Form, seed: int) -> list[float]:
    """Train; return the loss of every twentieth part."""
    wrapper, schedule = optimizer_of(model, setting)
    weights = [] if form.real else temperature_weights(model)
    temperature = lambda step: 1.0  # noqa: E731
    if weights:  # signs for the second half
        below = min(x.binary_below for x in weights)
        temperature = temperature_schedule(below, binary_from=setting.iters // 2).temperature
    bounded = bounded_parameters(model)
    if next(model.parameters()).is_cuda:
        model = _recorded(model, task.batch(setting.batch, torch.Generator())[0])
    rng = torch.Generator().manual_seed(seed)
    clamp_parameters(bounded)
    losses = []
    for step in range(setting.iters):
        for weight in weights:
            weight.temperature.fill_(temperature(step))
        x, target = task.batch(setting.batch, rng)
        loss = task.loss(model(x), target)
        wrapper.update_params(loss)
        clamp_parameters(bounded)
        schedule.step()
        losses.append(loss.detach())
    parts = torch.stack(losses).cpu().chunk(20)
    return [round(part.mean().item(), 4) for part in parts]
