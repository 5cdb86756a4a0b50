"""A small classification project on real images, run with the tools of users."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from sklearn.datasets import load_digits

from tests.managers import forget_runners

TOOLS = Path(__file__).resolve().parents[2] / 'tools'

CONFIG = """
custom_imports = dict(imports=['mmesbnn'], allow_failed_imports=False)
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='BNext', arch=dict(channels=[16, 32, 32, 64]), tau=2, stem_stride=1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64))
data_preprocessor = dict(
    num_classes=3, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
test_dataloader = dict(
    batch_size=64, num_workers=2, persistent_workers=True, pin_memory=True,
    dataset=dict(
        type='CustomDataset', data_root={root!r}, data_prefix='val',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(20, 16)),
                  dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False))
"""


def write_project(folder):
    """Write digits 0 to 2 as PNGs in ImageNet's layout, and a config for them."""
    pytest.importorskip('mmpretrain')
    digits = load_digits(n_class=3)
    for i, (image, label) in enumerate(zip(digits.images[:12], digits.target)):
        path = folder / 'val' / str(label) / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(path)
    config = folder / 'config.py'
    config.write_text(CONFIG.format(root=str(folder)))
    return config


def write_trained(folder, path):
    """Write a project, and weights of its model as mmengine saves them to ``path``.

    Returns:
        Path of the config, and the model.
    """
    config = write_project(folder)
    model = set_temperature(build(config), 0.0).eval()
    meta = {
        'cfg': Config.fromfile(config).pretty_text,
        'dataset_meta': {'classes': ['0', '1', '2']},
    }
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, path)
    return config, model


def build(config):
    """Build the config's model and initialise it."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def set_temperature(model, value):
    """Set the temperature of all binary layers."""
    for name, buffer in model.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(value)
    return model


def run_tool(name, *args, monkeypatch):
    """Run a tool in this process, without new imports; return its exit status."""
    forget_runners(monkeypatch)
    monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
    monkeypatch.syspath_prepend(str((TOOLS / name).parent))  # as python does
    try:
        runpy.run_path(str(TOOLS / name), run_name='__main__')
    except SystemExit as end:
        return end.code or 0
    return 0
