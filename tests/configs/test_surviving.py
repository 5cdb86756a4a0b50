"""Every recipe can continue after it was killed, with the same numbers."""

from pathlib import Path

import pytest
from mmengine.config import Config

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
RECIPES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if path.parent.name != '_base_'
)


@pytest.mark.parametrize('name', RECIPES)
def test_checkpoints_are_whole(name):
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.default_hooks.checkpoint.type == 'WholeCheckpointHook'
    assert isinstance(cfg.randomness.seed, int)
