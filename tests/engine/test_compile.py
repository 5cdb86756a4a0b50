"""``compile`` in a config: mmengine compiles the training step of the model."""

import pytest
import torch

from mmesbnn.engine.hooks import ParameterBoundsHook, TemperatureHook
from tests.engine import toy


def losses(folder, **options):
    torch.manual_seed(0)
    torch._dynamo.reset()
    hooks = [TemperatureHook(decay=0.5), ParameterBoundsHook()]
    runner = toy.runner(folder, hooks, model=toy.ToyClassifier(), **options)
    runner.train()
    return runner.message_hub.get_scalar('train/loss').data[0].tolist()


@pytest.mark.slow
def test_a_compiled_step_trains_alike(tmp_path):
    eager = losses(tmp_path / 'eager')
    compiled = losses(tmp_path / 'compiled', compile=dict(backend='aot_eager'))
    assert compiled == pytest.approx(eager, rel=1e-4)
