"""A network of 12,000 weights, eight images and a runner, for trainings of seconds."""

import uuid

import torch
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner import Runner
from torch import nn

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.models.backbones import BNext

CLASSES = 4


class ToyClassifier(BaseModel):
    """ES-BNext with one block per resolution, and a linear classifier."""

    def __init__(self, **kwargs):
        super().__init__()
        arch = dict(channels=[16, 32, 32])
        self.backbone = BNext(arch, **{'tau': 2, 'stem_stride': 1, **kwargs})
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, inputs, labels=None, mode='tensor'):
        logits = self.fc(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'loss':
            return {'loss_label': F.cross_entropy(logits, labels)}
        return logits if mode == 'tensor' else [logits]


class PlainModel(BaseModel):
    """One full-precision layer, on which the hooks have no effect."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, CLASSES)

    def forward(self, inputs, labels=None, mode='tensor'):
        return {'loss': F.cross_entropy(self.fc(inputs.flatten(1)), labels)}


class FirstView(BaseTTAModel):
    """Model that predicts what the tested model says of the first view."""

    def merge_preds(self, data_samples_list):
        return [predictions[0] for predictions in data_samples_list]

    def test_step(self, data):
        return self.module.test_step(data)


class Record(Hook):
    """Call ``look(runner)`` in every iteration and keep its results, by stage."""

    priority = 'VERY_LOW'

    def __init__(self, look):
        self.look = look
        self.seen = {'train': [], 'after': [], 'val': []}

    def before_train_iter(self, runner, *args, **kwargs):
        self.seen['train'].append(self.look(runner))

    def after_train_iter(self, runner, *args, **kwargs):
        self.seen['after'].append(self.look(runner))

    def before_val_iter(self, runner, *args, **kwargs):
        self.seen['val'].append(self.look(runner))


def images(count=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        dict(inputs=torch.randn(3, 8, 8, generator=generator, dtype=dtype), labels=i % 4)
        for i in range(count)
    ]


def loader(dataset, batch_size=4, shuffle=True):
    return dict(
        dataset=dataset,
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle, seed=0),
        collate_fn=dict(type='default_collate'),
    )


def runner(work_dir, hooks, model=None, epochs=2, data=None, iters=None, val=False, **kw):
    """Return a runner with two batches per epoch."""
    data = images() if data is None else data
    options = dict(
        model=ToyClassifier() if model is None else model,
        work_dir=str(work_dir),
        experiment_name=uuid.uuid4().hex,
        log_level='WARNING',
        train_dataloader=loader(data),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2)),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=None),
    )
    if iters is not None:
        options['train_cfg'] = dict(by_epoch=False, max_iters=iters)
        options['train_dataloader']['sampler'] = dict(type='InfiniteSampler', seed=0)
    if val:
        options['val_dataloader'] = loader(data, shuffle=False)
        options['val_cfg'] = dict()
        options['val_evaluator'] = Evaluator([])
    return Runner(**{**options, **kw})


def log_of(work_dir):
    """Return a runner's log messages of its level or above."""
    return '\n'.join(path.read_text() for path in work_dir.rglob('*.log'))


def history(runner):
    """Return all logged numbers except times."""
    return {
        name: buffer.data[0].tolist()
        for name, buffer in runner.message_hub.log_scalars.items()
        if 'time' not in name
    }


def tensors(value, name=''):
    """Yield the name and value of every tensor in a checkpoint."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from tensors(child, f'{name}.{key}')
