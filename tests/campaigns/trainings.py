"""Trainings of a few seconds from the demos' configs, each in its own process.

Imported once by a server of processes, which forks them: what is imported here needs
not be imported again by any of them.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
from pathlib import Path

import mmengine.runner.runner as runner_module
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmesbnn.datasets.mini_voc as mini_voc
from mmesbnn.datasets import write_digits
from mmesbnn.datasets.photographs import write_photographs
from tests.campaigns.slow_disk import SlowDisk

torch.set_num_threads(1)


def temperature_hook(cfg):
    return next(hook for hook in cfg.custom_hooks if hook.type == 'TemperatureHook')


def _hurry():
    """Do the common work of all trainings once, and skip slow extras."""
    for name in ('mmpretrain', 'mmdet'):
        with contextlib.suppress(ImportError):
            register = importlib.import_module(f'{name}.utils').register_all_modules
            register(init_default_scope=False)
    for name in ('diffusers.models', 'matplotlib.pyplot'):
        importlib.import_module(name)
    runner_module.collect_env = dict
    format_text = Config.pretty_text.fget
    texts = {}

    def text_once(cfg):
        if id(cfg) not in texts:
            texts[id(cfg)] = format_text(cfg)
        return texts[id(cfg)]

    Config.pretty_text = property(text_once)
    gc.freeze()


_hurry()

CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / 'demo'
TASKS = ('classification', 'detection', 'super_resolution')
#: The default backend is for GPUs.
WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
#: Epochs, or iterations.
EPOCHS, ITERATIONS = 4, 8


def write_data(task, root):
    """Write a few real images in the layout of the task's demo."""
    if task == 'classification':
        write_digits(root)
        for split, count in (('train', 4), ('val', 2)):
            for folder in (root / split).iterdir():
                for image in sorted(folder.iterdir())[count:]:
                    image.unlink()
    elif task == 'detection':
        mini_voc.write_mini_voc(root, names=('0', '1', '2'), size=(64, 64), counts=(4, 4, 4))
    else:
        write_photographs(root, scale=2, test_size=64)


def _classification(cfg, data):
    cfg.model.backbone.arch = dict(channels=[16, 16, 32])
    cfg.model.head.in_channels = 32
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=10, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = data
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.param_scheduler[0].end = 2
    cfg.param_scheduler[1].update(T_max=EPOCHS, begin=1, end=EPOCHS)
    temperature_hook(cfg).binary_from = 2
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    return dict(interval=1, save_best='auto')


def _detection(cfg, data):
    for dataset in cfg.train_dataloader.dataset.datasets:
        dataset.data_root = data
    cfg.train_dataloader.update(batch_size=4, num_workers=0)
    cfg.val_dataloader.update(batch_size=4, num_workers=0)
    cfg.val_dataloader.dataset.data_root = data
    cfg.train_cfg.update(max_epochs=EPOCHS, val_interval=1)
    cfg.param_scheduler[1].T_max = EPOCHS
    temperature_hook(cfg).binary_from = 2
    # the best checkpoint also changes between two checkpoints
    return dict(interval=2, save_best='pascal_voc/mAP')


def _super_resolution(cfg, data):
    cfg.model.unet.update(base_channels=8, num_levels=2, norm_groups=4)
    cfg.model.sampling.num_inference_steps = 2
    cfg.train_dataloader.update(batch_size=2)
    cfg.train_dataloader.dataset.update(data_root=data, crop_size=16)
    cfg.val_dataloader.dataset.data_root = data
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=2)
    cfg.param_scheduler[0].end = 2
    cfg.param_scheduler[1].update(T_max=ITERATIONS, end=ITERATIONS)
    return dict(interval=2, save_best='test/PSNR', rule='greater')


_CHANGES = dict(
    classification=('es_bnext_digits.py', _classification),
    detection=('es_bnext_fcos_mini_voc.py', _detection),
    super_resolution=('es_bi_diffsr_photos.py', _super_resolution),
)


def config(task, data, work_dir, keep=1, hook=None):
    """Return the demo's config with little work and frequent checkpoints.

    Args:
        task: One of ``TASKS``.
        data: Folder of the data.
        work_dir: Folder to work in.
        keep: How many checkpoints to keep.
        hook: The checkpoint hook, other than the config's.
    """
    name, change = _CHANGES[task]
    cfg = Config.fromfile(CONFIGS / name)
    saving = change(cfg, str(data))
    cfg.default_hooks.checkpoint.update(saving, max_keep_ckpts=keep)
    if hook is not None:
        cfg.default_hooks.checkpoint.type = hook
    cfg.default_hooks.logger.interval = 1
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.work_dir = str(work_dir)
    return cfg


class Started(Hook):
    """Record the iteration at which a training starts."""

    priority = 'VERY_HIGH'

    def __init__(self, path):
        self.path = path

    def before_train(self, runner):
        self.path.write_text(str(runner.iter))


def _join(rank, world, store):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=world)


def train(
    task,
    data,
    work_dir,
    log,
    resume=False,
    rank=0,
    world=1,
    store=None,
    delay=0,
    dies_after=None,
    **options,
):
    """Train in this process, one of ``world``; its output goes to the log.

    Leaves ``LOG.started``, the first iteration, and ``LOG.done``, the number of the
    disk's steps.
    """
    with open(log, 'w') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    cfg = config(task, data, work_dir, **options)
    cfg.resume = resume
    if world > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = WRAPPER
        _join(rank, world, store)
    disk = SlowDisk(work_dir, delay, dies_after)
    if rank == 0:
        disk.install()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Started(Path(f'{log}.started')))
    runner.train()
    Path(f'{log}.done').write_text(json.dumps(dict(steps=disk.steps)))
    sys.stdout.flush()
    os._exit(0)
