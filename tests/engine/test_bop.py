"""Bop flips weights by its formula, and is AdamW for everything else."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmesbnn.analysis import check_binary
from mmesbnn.binary import BinaryConv2d
from mmesbnn.engine.hooks import SignFlipHook
from mmesbnn.engine.optim import Bop
from tests.engine import computed, toy

CONFIG = dict(
    optimizer=dict(type='Bop', lr=1e-2, gamma=0.1, threshold=1e-4),
    constructor='BopOptimWrapperConstructor',
)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        binarizer = dict(type='plain_sign', clip=None)
        self.conv = BinaryConv2d(3, 8, 3, weight_binarizer=binarizer)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, toy.CLASSES)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.norm(self.conv(inputs)).mean((2, 3)))
        return {'loss': F.cross_entropy(logits, labels)} if mode == 'loss' else logits


def test_flips_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    w = rng.choice([-1.0, 1.0], (4, 5)) * 0.7
    weight = nn.Parameter(torch.tensor(w))
    optimizer = Bop([dict(params=[weight], flips=True)], gamma=0.2, threshold=0.3)
    m, flips = np.zeros_like(w), 0
    for _ in range(50):
        g = rng.normal(size=w.shape)
        m = 0.8 * m + 0.2 * g
        flip = (np.abs(m) > 0.3) & (np.sign(m) == np.sign(w))
        w, flips = np.where(flip, -w, w), flips + flip.sum()
        weight.grad = torch.tensor(g)
        optimizer.step()
        np.testing.assert_array_equal(weight.detach().numpy(), w)
    assert 20 < flips < 500


def test_other_parameters_take_the_steps_of_adamw():
    torch.manual_seed(0)
    flipped, other = (nn.Parameter(torch.randn(5)) for _ in range(2))
    twin = nn.Parameter(other.detach().clone())
    options = dict(lr=0.1, betas=(0.8, 0.9), weight_decay=0.3)
    bop = Bop([dict(params=[flipped], flips=True), dict(params=[other])], **options)
    adamw = torch.optim.AdamW([twin], **options)
    for _ in range(5):
        flipped.grad, other.grad = torch.randn(5), torch.randn(5)
        twin.grad = other.grad.clone()
        bop.step()
        adamw.step()
        assert torch.equal(other, twin)


def test_a_tensor_as_learning_rate_is_a_number():
    one, ones = bop(lr=0.1)
    other, others = bop(lr=torch.tensor(0.1, dtype=torch.float64))
    for _ in range(3):
        for a, b in zip(ones, others, strict=True):
            a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
        one.step()
        other.step()
    for a, b in zip(ones, others, strict=True):
        torch.testing.assert_close(a, b)


def bop(**options):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(2)]
    groups = [dict(params=params[:1], flips=True), dict(params=params[1:])]
    return Bop(groups, gamma=0.5, threshold=0.1, **options), params


def test_maximize_flips_by_the_negative_gradient():
    one, ones = bop()
    other, others = bop(maximize=True)
    for _ in range(5):
        for a, b in zip(ones, others, strict=True):
            a.grad = torch.randn(5, dtype=torch.float64)
            b.grad = -a.grad
        one.step()
        other.step()
    assert (ones[0] * bop()[1][0] < 0).any()
    assert all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


@pytest.mark.parametrize('fused', [False, True])
def test_scaled_gradients_flip_as_others(fused):
    """The scale of mixed precision is taken out; a step that overflows changes nothing."""
    plain, plains = bop()
    scaled, params = bop(fused=fused)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    scaler.scale(torch.ones(()))
    for step in range(5):
        grads = [0.2 * torch.randn(5, dtype=torch.float64) for _ in range(2)]
        for a, b, grad in zip(plains, params, grads, strict=True):
            a.grad, b.grad = grad, scaler.get_scale() * grad
        if step == 2:
            params[0].grad[0] = float('inf')
        else:
            plain.step()
        scaler.step(scaled)
        scaler.update()
    assert (plains[0] * bop()[1][0] < 0).any()
    for a, b in zip(plains, params, strict=True):
        torch.testing.assert_close(a, b)


def closure_of(optimizer, params, grads):
    def closure():
        optimizer.zero_grad()
        loss = sum((grad * p).sum() for grad, p in zip(grads, params, strict=True))
        loss.backward()
        return loss

    return closure


def test_a_closure_sets_all_gradients_to_zero():
    plain, plains = bop()
    closed, params = bop()
    for _ in range(5):
        grads = [torch.randn(5, dtype=torch.float64) for _ in range(2)]
        for p, grad in zip(plains, grads, strict=True):
            p.grad = grad
        plain.step()
        loss = closed.step(closure_of(closed, params, grads))
        assert torch.is_tensor(loss)
    assert (plains[0] * bop()[1][0] < 0).any()
    for a, b in zip(plains, params, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('other', [torch.optim.AdamW, torch.optim.Adam])
def test_hooks_run_once_in_a_step_and_see_all_groups(other):
    """Torch wraps the method of ``other`` when the first such optimizer is made."""
    optimizer, params = bop()
    other(params)
    seen = []
    optimizer.register_step_pre_hook(lambda one, *_: seen.append(len(one.param_groups)))
    optimizer.register_step_post_hook(lambda one, *_: seen.append(len(one.param_groups)))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert seen == [2, 2]


def test_weights_without_a_gradient_stay():
    weight = nn.Parameter(torch.ones(3))
    Bop([dict(params=[weight], flips=True)]).step()
    assert weight.tolist() == [1, 1, 1]


def test_the_constructor_finds_the_binary_weights():
    model = Model()
    model.norm.bias.requires_grad_(False)
    optimizer = build_optim_wrapper(model, copy.deepcopy(CONFIG)).optimizer
    first, second = optimizer.param_groups
    assert [p is model.conv.weight for p in first['params']] == [True]
    assert (first['flips'], second['flips']) == (True, False)
    expected = [model.norm.weight, *model.fc.parameters()]
    assert all(a is b for a, b in zip(second['params'], expected, strict=True))
    assert (first['gamma'], first['threshold'], second['lr']) == (0.1, 1e-4, 1e-2)


def losses(runner):
    return runner.message_hub.log_scalars['train/loss'].data[0].tolist()


def test_a_training_learns_and_goes_on_after_a_resume(tmp_path):
    def train(folder, **options):
        torch.manual_seed(0)
        save = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4)))
        runner = toy.runner(
            tmp_path / folder,
            [SignFlipHook()],
            model=Model(),
            epochs=8,
            optim_wrapper=copy.deepcopy(CONFIG),
            **save,
            **options,
        )
        runner.train()
        return runner

    torch.manual_seed(0)
    magnitudes = Model().conv.weight.detach().abs()
    whole = train('whole')
    found = losses(whole)
    assert np.mean(found[-4:]) < np.mean(found[:4])
    assert torch.equal(whole.model.conv.weight.detach().abs(), magnitudes)
    rates = whole.message_hub.log_scalars['train/flip_rate'].data[0]
    assert (rates > 0).any()
    assert check_binary(whole.model, torch.randn(2, 3, 8, 8)) == []
    again = train('again', load_from=str(tmp_path / 'whole' / 'epoch_4.pth'), resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(gamma=1.5), 'gamma=1.5'),
        (dict(threshold=-1.0), 'threshold=-1'),
        (dict(lr=torch.ones(2)), r'lr=tensor\(.* or a tensor of one value'),
        (dict(), 'no parameter group has flips=True'),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Bop([nn.Parameter(torch.ones(1))], **options)


def test_the_state_of_another_optimizer_is_refused():
    optimizer, params = bop()
    adamw = torch.optim.AdamW([dict(params=params[:1]), dict(params=params[1:])])
    with pytest.raises(
        ValueError, match=r'flips=\[None, None\], not .*load_from instead of resume'
    ):
        optimizer.load_state_dict(adamw.state_dict())
    swapped = Bop([dict(params=params[:1]), dict(params=params[1:], flips=True)])
    with pytest.raises(ValueError, match=r'flips=\[False, True\]'):
        optimizer.load_state_dict(swapped.state_dict())
    optimizer.load_state_dict(bop()[0].state_dict())


def test_what_the_constructor_refuses():
    with pytest.raises(ValueError, match='no binary weight'):
        build_optim_wrapper(nn.Linear(3, 3), copy.deepcopy(CONFIG))
    with pytest.raises(ValueError, match='paramwise_cfg'):
        build_optim_wrapper(Model(), dict(copy.deepcopy(CONFIG), paramwise_cfg=dict(a=1)))


def test_a_compiled_step_is_the_step():
    torch._dynamo.reset()
    (plain, expected), (compiled, params) = bop(), bop()

    @torch.compile(backend='eager')
    def step():
        compiled.step()

    for _ in range(3):
        for one, other in zip(params, expected):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        step()
        plain.step()
    assert all(map(torch.equal, params, expected))


@pytest.mark.parametrize('compute', computed.WAYS)
def test_a_computed_weight_is_refused(compute):
    model = Model()
    model.other = BinaryConv2d(8, 8, 1)
    compute(model.other)
    with pytest.raises(ValueError, match=r"layer 'other' is computed .*remove_parametrizations"):
        build_optim_wrapper(model, copy.deepcopy(CONFIG))
    for parameter in model.other.parameters():
        parameter.requires_grad_(False)
    build_optim_wrapper(model, copy.deepcopy(CONFIG))
