"""Tasks of exports are found by name and accept only their own networks."""

from dataclasses import dataclass

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmesbnn.deploy import make_task
from mmesbnn.deploy.runtime import task as running
from mmesbnn.deploy.runtime.classification import Classification
from mmesbnn.deploy.runtime.task import register_task, task_names
from mmesbnn.deploy.tasks import export_task
from mmesbnn.deploy.tasks.classification import ClassificationExport
from mmesbnn.deploy.tasks.export_task import find_export, register_export


@pytest.mark.parametrize('name', task_names())
def test_exports_are_found_by_the_names_of_tasks(name):
    assert name == find_export(name).RUNNER.NAME


def test_a_task_of_another_package_comes_first(monkeypatch):
    monkeypatch.setattr(running, '_TASKS', dict(running._TASKS))
    monkeypatch.setattr(export_task, '_EXPORTS', dict(export_task._EXPORTS))

    @register_task
    class Quality(Classification):
        NAME = 'quality'

    assert find_export('quality') is None  # until it can be exported

    @register_export
    @dataclass(frozen=True, kw_only=True)
    class QualityExport(ClassificationExport):
        RUNNER = Quality

        @classmethod
        def accepts(cls, cfg, model):
            return isinstance(model, nn.Conv2d)

    cfg = Config(dict(model=dict(type='x'), test_pipeline=[dict(type='Resize', scale=8)]))
    task = make_task(cfg, nn.Conv2d(3, 2, 1), count=1)
    assert type(task) is QualityExport and task.RUNNER is Quality
    assert task.example(0)[0].shape == (1, 3, 8, 8)
    assert type(make_task(cfg, nn.Identity(), count=1)) is ClassificationExport


def test_a_task_has_one_export():
    find_export('classification')

    class Other(ClassificationExport):
        pass

    with pytest.raises(ValueError, match="'classification'"):
        register_export(Other)


def test_diffusion_is_upscaling():
    pytest.importorskip('diffusers')
    from mmesbnn.models.restorers import SRDiffusion

    unet = dict(type='BIDiffSRUNet', base_channels=16, num_levels=2, blocks_per_level=1)
    model = SRDiffusion(unet, scale=4, sampling=dict(num_inference_steps=5))
    task = make_task(Config(dict(model=dict(type='SRDiffusion'))), model, size=(16, 24))
    assert task.RUNNER.NAME == 'super_resolution' and task.classes is None
    assert task.decoding.scheduler.num_inference_steps == 5
    sample, timestep = task.example(1)
    assert sample.shape == (1, 6, 16, 24) and timestep.shape == (1,)
    torch.testing.assert_close(sample[:, :3], task.images[1:2])
    assert not torch.equal(sample, torch.cat(task.example(0)[:1]))
