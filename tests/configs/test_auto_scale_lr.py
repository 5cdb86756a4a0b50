"""Every recipe of mmpretrain and mmdet takes ``mim train --auto-scale-lr``."""

from pathlib import Path

import pytest
from mmengine.config import Config

from tests.configs.recipes import CONFIGS, RECIPES

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')

#: Super-resolution trains with tools/train_sr.py, which has no such option.
OF_MIM = [name for name in RECIPES if 'bi_diffsr' not in Path(name).name.replace('-', '_')]


@pytest.mark.parametrize('name', OF_MIM)
def test_the_recipe_says_what_its_learning_rate_is_for(name):
    cfg = Config.fromfile(CONFIGS / name)
    # mmdet's tool asks for both keys, mmpretrain's for the entry
    assert cfg.auto_scale_lr.enable is False
    processes, rest = divmod(cfg.auto_scale_lr.base_batch_size, cfg.train_dataloader.batch_size)
    assert (processes in (1, 2, 4, 8), rest) == (True, 0)
