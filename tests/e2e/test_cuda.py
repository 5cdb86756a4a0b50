"""Networks on a GPU compute and train as on the CPU: pytest --gpu tests/e2e/test_cuda.py."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.checkpoints import read_checkpoint
from tests import families
from tests.datasets.sr_folders import write_benchmark, write_df2k
from tests.engine import sr_runs, toy
from tests.families import BACKBONES
from tests.models.backbones import spread

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU, or no --gpu'),
]

ROOT = Path(__file__).parents[2]
every_backbone = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)


def step_on(device, model, inputs):
    """Return outputs and gradients of a step in double precision, on the CPU."""
    model = copy.deepcopy(model).double().to(device)
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    outputs = families.tensors(model(*(x.to(device) for x in inputs)))
    generator = torch.Generator().manual_seed(7)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=o.dtype).to(device)).sum()
        for o in outputs
    )
    loss.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return [o.detach().cpu() for o in outputs], gradients


def check_same_step(model, inputs, tolerance=1e-6):
    outputs, gradients = step_on('cpu', model, inputs)
    on_gpu, gradients_on_gpu = step_on('cuda', model, inputs)
    for ours, theirs in zip(on_gpu, outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert gradients_on_gpu.keys() == gradients.keys()
    for name, gradient in gradients.items():
        error = (gradients_on_gpu[name] - gradient).norm()
        # a bias before a norm has a gradient of 0
        assert error < tolerance * gradient.norm() + 1e-9, f'{name}: {error} of {gradient.norm()}'


@pytest.mark.parametrize('name', families.NAMES)
def test_outputs_and_gradients_are_those_of_the_cpu(name):
    model, inputs = families.build(name)
    spread(model).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0  # devices draw other numbers
    # diffusers embeds times in float32
    check_same_step(model, inputs, 1e-4 if name == 'diffusers-unet' else 1e-6)


@every_backbone
def test_recomputation(row):
    torch.manual_seed(0)
    check_same_step(spread(row.build(with_cp=True)), row.images())


@every_backbone
def test_analysis_works_on_the_gpu(row):
    model, (x,) = row.build().eval(), row.images()
    size = tuple(x.shape[1:])
    on_cpu = check_binary(model, x), count_ops(model, size).total
    model.cuda()
    assert [str(f) for f in check_binary(model, x.cuda())] == [str(f) for f in on_cpu[0]]
    assert count_ops(model, size).total == on_cpu[1]


@pytest.mark.parametrize('name', ['es-bnext', 'es-reactnet-18', 'es-all-binary-vit'])
def test_compiled_outputs(name):
    row = BACKBONES[name]
    torch.manual_seed(0)
    # double: a sign must not change by rounding
    model, (x,) = spread(row.build()).double().cuda().eval(), row.images()
    x = x.double().cuda()
    with torch.no_grad():
        for ours, theirs in zip(torch.compile(model, fullgraph=True)(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision_trains(tmp_path, dtype):
    torch.manual_seed(0)
    runner = toy.runner(
        tmp_path,
        [dict(type='ParameterBoundsHook'), dict(type='NaNGuardHook', interval=1)],
        epochs=20,
        optim_wrapper=dict(
            type='AmpOptimWrapper',
            dtype=dtype,
            optimizer=dict(type='AdamW', lr=1e-2, fused=True),
            constructor='BinaryOptimWrapperConstructor',
            clip_grad=dict(max_norm=5),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=20)),
    )
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0].tolist()
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])
    assert next(runner.model.parameters()).device.type == 'cuda'
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    saved = read_checkpoint(tmp_path / 'epoch_20.pth')['state_dict']
    toy.ToyClassifier().load_state_dict(saved, strict=True)
    assert {value.device.type for value in saved.values()} == {'cpu'}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', families.NAMES)
def test_autocast(name, dtype):
    model, inputs = families.build(name)
    with torch.no_grad(), torch.autocast('cuda', dtype):
        outputs = families.tensors(model.cuda()(*(x.cuda() for x in inputs)))
    assert all(y.isfinite().all() for y in outputs)


def test_a_diffusers_model_is_loaded_onto_the_gpu(tmp_path):
    pytest.importorskip('accelerate')
    diffusers = pytest.importorskip('diffusers')
    from mmesbnn.diffusion import BinaryConfig

    torch.manual_seed(0)
    families.float_unet().save_pretrained(tmp_path / 'float')
    load = diffusers.UNet2DModel.from_pretrained
    load(tmp_path / 'float', quantization_config=BinaryConfig(tau=2)).save_pretrained(
        tmp_path / 'binary'
    )
    on_cpu, on_gpu = load(tmp_path / 'binary'), load(tmp_path / 'binary', device_map='cuda')
    assert {p.device.type for p in on_gpu.parameters()} == {'cuda'}
    x, t = torch.randn(2, 3, 16, 16).double(), torch.tensor([5, 900])
    with torch.no_grad():
        ours = on_gpu.double()(x.cuda(), t.cuda()).sample.cpu()
        theirs = on_cpu.double()(x, t).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_super_resolution_trains_with_a_launcher(tmp_path):
    """One process of NCCL trains as many do."""
    pytest.importorskip('diffusers')
    write_benchmark(tmp_path, sizes=((44, 52),))
    root, work_dir = write_df2k(tmp_path, sizes=((32, 40), (40, 32))), tmp_path / 'work'
    Config(sr_runs.config(root, work_dir)).dump(tmp_path / 'config.py')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=1']
    command += [str(ROOT / 'tools/train_sr.py'), 'config.py', '--launcher', 'pytorch']
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (work_dir / 'iter_4.pth').is_file()
