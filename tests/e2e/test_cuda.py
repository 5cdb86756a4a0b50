"""Networks on a GPU compute and train as on the CPU. Skipped where there is none."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.checkpoints import read_checkpoint
from tests import families
from tests.datasets.sr_folders import write_benchmark, write_df2k
from tests.engine import sr_runs, toy
from tests.families import BACKBONES
from tests.models.backbones import spread, step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')

ROOT = Path(__file__).parents[2]
every_backbone = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)


def step_on(device, model, x):
    """Return outputs and gradients of a step in double precision, on the CPU."""
    model = copy.deepcopy(model).double().to(device)
    outputs = model(x.double().to(device))
    generator = torch.Generator().manual_seed(7)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=o.dtype).to(device)).sum()
        for o in outputs
    )
    loss.backward()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return [o.detach().cpu() for o in outputs], gradients


def test_the_step_is_that_of_the_other_tests():
    row = BACKBONES['es-bnext']
    model, (x,) = spread(row.build()), row.images()
    outputs, gradients = step_on('cpu', model, x)
    model.double()
    for ours, theirs in zip(outputs, step(model, x.double()), strict=True):
        assert torch.equal(ours, theirs)
    name, parameter = next(iter(model.named_parameters()))
    assert torch.equal(gradients[name], parameter.grad)


@every_backbone
@pytest.mark.parametrize('changes', [{}, {'with_cp': True}], ids=['plain', 'with_cp'])
def test_outputs_and_gradients_are_those_of_the_cpu(row, changes):
    torch.manual_seed(0)
    model, (x,) = spread(row.build(**changes)), row.images()
    outputs, gradients = step_on('cpu', model, x)
    on_gpu, gradients_on_gpu = step_on('cuda', model, x)
    for ours, theirs in zip(on_gpu, outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert gradients_on_gpu.keys() == gradients.keys()
    for name, gradient in gradients.items():
        found = gradients_on_gpu[name]
        torch.testing.assert_close(found, gradient, rtol=1e-7, atol=1e-9, msg=name)


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
    unet = diffusers.UNet2DModel(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=8,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
    )
    unet.save_pretrained(tmp_path / 'float')
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
