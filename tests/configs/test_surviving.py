"""Every recipe can continue after it was killed, with the same numbers."""

import pytest
from mmengine.config import Config

from tests.configs.recipes import CONFIGS, RECIPES

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')


@pytest.mark.parametrize('name', RECIPES)
def test_checkpoints_are_whole(name):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.default_hooks.checkpoint.type == 'WholeCheckpointHook'
    assert isinstance(cfg.randomness.seed, int)
