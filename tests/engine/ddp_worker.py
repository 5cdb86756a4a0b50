"""One of the two processes of a training, run by ``test_ddp.py`` with rank and folder."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters
from mmesbnn.engine.reach import temperature_weights
from mmesbnn.models.backbones import BNext
from tests.engine import sr_runs, toy

WORLD = 2
STEPS = 2


def batch(rank=0, world=1):
    """Return a process's part of the batch, or the whole batch."""
    data = toy.images(8, torch.float64)[rank::world]
    labels = torch.tensor([item['labels'] for item in data])
    return torch.stack([item['inputs'] for item in data]), labels


def synced_model():
    torch.manual_seed(0)
    model = toy.ToyClassifier(norm_cfg=dict(type='SyncBN')).double()
    # larger latent weights than at the beginning: then all gradients matter
    with torch.no_grad():
        for parameter, _, _ in bounded_parameters(model):
            parameter.uniform_(0.1, 0.9)
    return model


def sgd_steps(model, call, inputs, labels):
    """Train; return the last gradients and the state."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        call(inputs, labels, mode='loss')['loss_label'].backward()
        optimizer.step()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return dict(gradients=gradients, state=model.state_dict())


def train_synced(rank):
    model = synced_model()
    ddp = DistributedDataParallel(model, find_unused_parameters=False)
    return sgd_steps(model, ddp, *batch(rank, WORLD))


class EarlyOutput(nn.Module):
    """A loss of the first of two stages."""

    def __init__(self):
        super().__init__()
        self.backbone = BNext(
            arch=dict(channels=[8, 8, 16], depths=[1, 1]),
            se_ratio=4,
            stem_stride=1,
            norm_cfg=dict(type='SyncBN'),
            out_indices=(0,),
        )

    def forward(self, inputs, labels, mode):
        (out,) = self.backbone(inputs)
        return dict(loss_label=(out.mean((1, 2, 3)) - labels).square().mean())


def early_model():
    torch.manual_seed(0)
    return EarlyOutput().double()


def train_early(rank):
    model = early_model()
    ddp = DistributedDataParallel(model, find_unused_parameters=False)
    return sgd_steps(model, ddp, *batch(rank, WORLD))


WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)


def runner(folder, hooks, **kwargs):
    return toy.runner(
        folder,
        [HOOKS.build(dict(type=f'{name}Hook', **options)) for name, options in hooks],
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=WRAPPER),
        log_level='INFO',
        **kwargs,
    )


def train_hooked(folder):
    """Train with mmengine's runner and read the model inside its wrapper."""
    hooks = [
        ('Temperature', dict(decay=0.5)),
        ('ParameterBounds', {}),
        ('SignFlip', {}),
        ('NaNGuard', {}),
    ]
    torch.manual_seed(0)
    trained = runner(
        folder,
        hooks,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=10.0), constructor='BinaryOptimWrapperConstructor'
        ),
    )
    trained.train()
    model = trained.model
    return dict(
        wrapper=type(model).__name__,
        temperatures=sorted({weight.temperature.item() for weight in temperature_weights(model)}),
        excess=max(
            max((low - p).max().item(), (p - high).max().item())
            for p, low, high in bounded_parameters(model)
        ),
        flips=trained.message_hub.get_scalar('train/flip_rate').data[0].tolist(),
        weight=next(iter(model.parameters())).detach(),
    )


class NaNOnce(toy.ToyClassifier):
    """Its loss is NaN in step ``when``; the gradients then make all weights NaN."""

    def __init__(self, when):
        super().__init__()
        self.when, self.step = when, 0

    def forward(self, inputs, labels=None, mode='tensor'):
        losses = super().forward(inputs, labels, mode)
        if self.step == self.when:
            losses = {name: loss * float('nan') for name, loss in losses.items()}
        self.step += 1
        return losses


def train_into_nan(folder, rank):
    """Only the second process gets a NaN, and only in the second iteration."""
    model = NaNOnce(when=1 if rank == 1 else None)
    try:
        runner(folder, [('NaNGuard', {})], model=model, epochs=2).train()
    except FloatingPointError as error:
        return str(error)


def train_super_resolution(folder):
    """Train a diffusion model without a stop, and again from the middle."""
    results = {}
    for name in ('whole', 'parts'):
        work_dir = folder / name
        resumed = (
            {}
            if name == 'whole'
            else dict(resume=True, load_from=str(folder / 'whole' / 'iter_2.pth'))
        )
        trained = sr_runs.runner(
            folder, work_dir, launcher='pytorch', cfg=dict(model_wrapper_cfg=WRAPPER), **resumed
        )
        trained.train()
        history = toy.history(trained)
        results[name] = dict(
            wrapper=type(trained.model).__name__,
            state=trained.model.module.state_dict(),
            losses=history['train/loss'][-2:],
            psnr=history['val/Set5/PSNR'][-1],
        )
    return results


def main():
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=WORLD
    )
    result = dict(
        synced=train_synced(rank),
        early=train_early(rank),
        hooked=train_hooked(folder / 'hooked'),
        nan=train_into_nan(folder / 'nan', rank),
        super_resolution=train_super_resolution(folder / 'sr'),
    )
    torch.save(result, folder / f'{rank}.pth')
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
