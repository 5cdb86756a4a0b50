"""A checkpoint and a packed file give the same network."""

import pytest
import torch

from mmesbnn.analysis import InputError
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.deploy import load_packed, pack, pack_checkpoint
from mmesbnn.deploy.tasks.trained import load_trained
from tests.analysis.digits import build, set_temperature, write_project

pytest.importorskip('mmpretrain')
pytest.importorskip('safetensors')
META = {'classes': ['0', '1', '2']}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    config, checkpoint = write_project(folder), folder / 'net.pth'
    state = set_temperature(build(config), 0.0).state_dict()
    torch.save({'state_dict': state, 'meta': {'dataset_meta': META}}, checkpoint)
    packed = folder / 'net.safetensors'
    pack_checkpoint(checkpoint, packed, config=config)
    return config, checkpoint, packed


def test_both_are_the_same_network(files):
    config, checkpoint, packed = files
    x = torch.randn(2, 3, 16, 20)
    outputs = []
    for names in ((config, checkpoint), (packed,)):
        cfg, model, meta = load_trained(*names)
        assert cfg.model.backbone.tau == 2 and meta == META
        assert not any(module.training for module in model.modules())
        with torch.no_grad():
            outputs.append(model(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_a_packed_network_of_another_dtype(files, dtype, tmp_path):
    path = tmp_path / 'net.safetensors'
    pack(load_packed(files[2]).to(dtype), path)
    model = load_trained(path)[1]
    assert {x.dtype for x in model.state_dict().values()} <= {torch.float32, torch.int64}
    assert model(torch.randn(2, 3, 16, 20)).isfinite().all()


def test_options_change_the_config(files):
    with pytest.raises(InputError, match='not a checkpoint of this model'):
        load_trained(*files[:2], {'model.backbone.tau': 1})


def test_options_do_not_change_a_packed_file(files):
    with pytest.raises(InputError, match='packed file, whose config stays'):
        load_trained(files[2], options={'model.backbone.tau': 1})


def test_a_checkpoint_without_meta(files, tmp_path):
    config, checkpoint, _ = files
    torch.save(read_checkpoint(checkpoint)['state_dict'], tmp_path / 'bare.pth')
    assert load_trained(config, tmp_path / 'bare.pth')[2] is None
