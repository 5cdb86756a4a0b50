"""Mixed precision: low in convolutions, full in weights, temperature and loss."""

import pytest
import torch

from mmesbnn.binary import BinaryConv2d
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import NaNGuardHook, ParameterBoundsHook, TemperatureHook
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters
from mmesbnn.engine.reach import temperature_weights
from tests.engine import toy


def train(folder, wrapper, **options):
    """Train two epochs; return losses, dtypes of binary convolutions, and the model."""
    torch.manual_seed(0)
    model = toy.ToyClassifier()
    dtypes = []
    for layer in model.modules():
        if isinstance(layer, BinaryConv2d):
            layer.register_forward_hook(lambda *args: dtypes.append(args[-1].dtype))
    hooks = [TemperatureHook(decay=0.5), ParameterBoundsHook(), NaNGuardHook(1)]
    runner = toy.runner(
        folder,
        hooks,
        model=model,
        optim_wrapper=dict(
            type=wrapper,
            optimizer=dict(type='AdamW', lr=1e-2),
            constructor='BinaryOptimWrapperConstructor',
            clip_grad=dict(max_norm=5),
            **options,
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()
    return losses, set(dtypes), model


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """Allow the wrapper on CPUs, where mmengine runs it but does not build it."""
    name = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(name, lambda: True)


# without a GPU the wrapper disables its gradient scaler
@pytest.mark.filterwarnings('ignore:torch.cuda.amp.GradScaler:UserWarning')
@pytest.mark.filterwarnings('ignore:`torch.cuda.amp.GradScaler:FutureWarning')
def test_trains_like_full_precision(tmp_path, amp_on_cpu):
    full, dtypes, _ = train(tmp_path / 'full', 'OptimWrapper')
    assert dtypes == {torch.float32}
    mixed, dtypes, model = train(tmp_path / 'mixed', 'AmpOptimWrapper', dtype='bfloat16')
    assert dtypes == {torch.bfloat16}
    assert len(set(mixed)) == len(mixed) == 4
    # rounding may flip a sign, so later steps may differ
    assert mixed[0] == pytest.approx(full[0], rel=0.02)
    assert mixed[0] != full[0]

    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {w.temperature.item() for w in temperature_weights(model)} == {0.5}
    for parameter, low, high in bounded_parameters(model):
        assert low <= parameter.min() <= parameter.max() <= high
    saved = read_checkpoint(tmp_path / 'mixed/epoch_2.pth')
    toy.ToyClassifier().load_state_dict(saved['state_dict'], strict=True)
    assert 'loss_scaler' in saved['optimizer']
