"""Packed files give the outputs of their original networks."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import mmesbnn
from mmesbnn.analysis import check_binary
from mmesbnn.binary import BinaryLinear, BinaryMultiheadAttention, FixedWeight
from mmesbnn.deploy import PackError, load_packed, pack
from mmesbnn.deploy.packed.file import read_packed
from tests.deploy.packed.nets import BINARIZERS, Net, same_after_packing, shaken, soft

pytest.importorskip('safetensors')


@pytest.mark.parametrize('binarizer', BINARIZERS, ids=lambda b: '-'.join(map(str, b)))
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_outputs_are_equal_bit_for_bit(binarizer, dtype, tmp_path):
    model = shaken(Net(binarizer).to(dtype))
    x = torch.randn(2, 3, 16, 16, dtype=dtype)
    path = tmp_path / 'net.safetensors'
    ours, theirs = same_after_packing(model, Net(binarizer), x, path)
    assert theirs.dtype == dtype
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() > 2


@pytest.mark.parametrize(
    'compute', [parametrizations.weight_norm, parametrizations.spectral_norm, prune.identity]
)
def test_a_weight_that_is_computed_from_others(compute, tmp_path):
    plain, path = nn.Sequential(BinaryLinear(8, 6)), tmp_path / 'net.safetensors'
    pack(plain, path)
    model = nn.Sequential(BinaryLinear(8, 6))
    compute(model[0], 'weight')
    rule = 'its weight is computed from other tensors'
    with pytest.raises(PackError, match=f'cannot pack 0: {rule}'):
        pack(model, tmp_path / 'other.safetensors')
    with pytest.raises(PackError, match=f'cannot load into 0: {rule}'):
        load_packed(path, model)
    if compute is prune.identity:
        prune.remove(model[0], 'weight')
    else:
        parametrize.remove_parametrizations(model[0], 'weight')
    x = torch.randn(3, 8)
    pack(model, path)
    assert torch.equal(load_packed(path, plain)(x), model.eval()(x))


class Cast(nn.Module):
    """A layer that gets its input in the dtype of its weight."""

    def __init__(self, layer, dtype):
        super().__init__()
        self.layer = layer.to(dtype)

    def forward(self, x):
        return self.layer(x.to(self.layer.weight.dtype))


def mixed(binary, norm, last):
    """Return a network with binary layers in two dtypes, a norm and a real layer."""
    torch.manual_seed(0)
    layers = (BinaryLinear(8, 6), binary), (nn.BatchNorm1d(6), norm), (BinaryLinear(6, 4), last)
    return nn.Sequential(*(Cast(*layer) for layer in layers), Cast(nn.Linear(4, 3), norm)).eval()


@pytest.mark.parametrize('half', [False, True])
@pytest.mark.parametrize(
    'dtypes',
    [
        (torch.bfloat16, torch.float32, torch.bfloat16),
        (torch.float32, torch.float64, torch.float32),
        (torch.float32, torch.bfloat16, torch.float64),
    ],
)
def test_networks_of_several_dtypes(dtypes, half, tmp_path):
    model, path = mixed(*dtypes), tmp_path / 'net.safetensors'
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm1d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    pack(model, path, half=half)
    again = load_packed(path, mixed(*3 * [torch.float32]))
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        assert old.dtype == new.dtype
    assert [x.dtype for x in model.buffers()] == [x.dtype for x in again.buffers()]
    x = torch.randn(5, 8)
    assert half or torch.equal(again(x), model(x))


@pytest.mark.parametrize(
    ('value', 'words'),
    [
        (torch.ones(2, dtype=torch.complex64), 'of torch.complex64'),
        (torch.ones(2).to(torch.uint16), 'of torch.uint16'),
        (torch.ones(2).to(torch.float8_e4m3fn), 'of torch.float8_e4m3fn'),
        (torch.eye(3).to_sparse(), 'of the layout torch.sparse_coo'),
        (torch.ones(2, device='meta'), 'without values, on the device meta'),
    ],
)
def test_tensors_that_a_file_cannot_hold(value, words, tmp_path):
    model = nn.Sequential(BinaryLinear(3, 2, weight_binarizer='scaled_sign'))
    model.register_buffer('extra', value)
    with pytest.raises(PackError, match=f'^cannot pack extra: it is a tensor {words}$'):
        pack(model, tmp_path / 'net.safetensors')
    assert not list(tmp_path.iterdir())


def test_a_network_without_values_cannot_be_packed(tmp_path):
    model = nn.Sequential(BinaryLinear(3, 2)).to('meta')
    with pytest.raises(PackError, match=r'^cannot pack 0: its weights are on the device meta'):
        pack(model, tmp_path / 'net.safetensors')


def test_a_lazy_layer_cannot_be_packed(tmp_path):
    model = nn.Sequential(BinaryLinear(3, 2, weight_binarizer='scaled_sign'), nn.LazyLinear(3))
    with pytest.raises(PackError, match=r'^cannot pack 1\.weight: it is a tensor without a shape'):
        pack(model, tmp_path / 'net.safetensors')


def test_equal_networks_are_equal_files(tmp_path):
    torch.manual_seed(0)
    model = shaken(Net(BINARIZERS[0]))
    meta = dict(classes=['"quoted"', 'back\\slash', 'tab\tline\n\x01\x7f', 'Übung', '鳥\u2028'])
    files = [tmp_path / f'{i}.safetensors' for i in range(6)]
    for file in files:
        pack(model, file, dataset_meta=meta)
    assert len({file.read_bytes() for file in files}) == 1
    assert json.loads(read_packed(files[0])[1]['dataset_meta']) == meta


def test_attention(tmp_path):
    model = shaken(BinaryMultiheadAttention(16, 4, tau=2))
    x = torch.randn(2, 9, 32)
    fresh = BinaryMultiheadAttention(16, 4, tau=2)
    ours, theirs = same_after_packing(model, fresh, x, tmp_path / 'a.safetensors')
    assert torch.equal(ours, theirs)


def test_a_layer_alone(tmp_path):
    model = BinaryLinear(10, 3, weight_binarizer='centred_sign')
    path = tmp_path / 'layer.safetensors'
    x = torch.randn(5, 10)
    ours, theirs = same_after_packing(model, BinaryLinear(10, 3), x, path)
    assert torch.equal(ours, theirs)
    # three bytes and more of bits, three scales, nothing else
    content, _ = read_packed(path)
    assert {key: value.numel() for key, value in content.items()} == {
        'weight.bits': 4,
        'weight.scale': 3,
    }


def test_a_centred_weight_of_mostly_one_sign(tmp_path):
    model = BinaryLinear(8, 1, weight_binarizer='centred_sign')
    model.weight.data = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -3.3]])
    pack(model, tmp_path / 'layer.safetensors')
    loaded = load_packed(tmp_path / 'layer.safetensors', BinaryLinear(8, 1))
    expected = model.effective_weight()
    assert expected.sign().sum() == 6
    assert torch.equal(loaded.effective_weight(), expected)


def test_networks_made_binary(tmp_path):
    def make():
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, groups=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 8),
            nn.Linear(8, 2),
        )
        mmesbnn.binarize(net, tau=2)
        return net

    model = shaken(make())
    x = torch.randn(3, 3, 6, 6)
    ours, theirs = same_after_packing(model, make(), x, tmp_path / 'n.safetensors')
    assert torch.equal(ours, theirs)


def test_shared_layers_are_restored_in_both_places(tmp_path):
    layer = BinaryLinear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    other = BinaryLinear(8, 8)
    fresh = nn.Sequential(other, nn.ReLU(), other)
    x = torch.randn(2, 8)
    ours, theirs = same_after_packing(model, fresh, x, tmp_path / 's.safetensors')
    assert torch.equal(ours, theirs)


def test_loaded_networks_are_binary_and_frozen(tmp_path):
    model = shaken(Net('scaled_sign'))
    path = tmp_path / 'net.safetensors'
    pack(model, path)
    loaded = load_packed(path, Net('scaled_sign'))
    assert check_binary(loaded, torch.randn(1, 3, 16, 16)) == []
    assert not loaded.training
    assert isinstance(loaded.wide.weight_binarizer, FixedWeight)
    assert not loaded.wide.weight.requires_grad
    assert loaded.stem.weight.requires_grad
    # and can be packed again
    report = pack(loaded, tmp_path / 'again.safetensors')
    assert report.parts['bits of binary weights'] > 0
    assert (tmp_path / 'again.safetensors').stat().st_size == path.stat().st_size


def test_statistics_of_copies_are_stored_once(tmp_path):
    model = shaken(Net('temperature'))
    pack(model, tmp_path / 'net.safetensors')
    content, metadata = read_packed(tmp_path / 'net.safetensors')
    assert content['norm.running_mean'].numel() == 6
    assert content['norm.weight'].numel() == 48
    assert not [key for key in content if 'temperature' in key or 'tracked' in key]
    assert not [key for key in content if key.endswith('scale')]
    assert metadata['version'] == mmesbnn.__version__


def test_statistics_that_differ_are_stored_whole(tmp_path):
    model = shaken(Net('temperature'))
    model.norm.running_mean[-1] += 1
    x = torch.randn(1, 3, 16, 16)
    path = tmp_path / 'net.safetensors'
    ours, theirs = same_after_packing(model, Net('temperature'), x, path)
    assert read_packed(path)[0]['norm.running_mean'].numel() == 48
    assert torch.equal(ours, theirs)


def test_half_rounds_by_at_most_the_stated_amount(tmp_path):
    model = shaken(Net('scaled_sign'))
    model.stem.bias.data[0] = 1e5  # outside of half precision
    model.norm.running_var[:] = 1e-6  # its ratio to eps matters
    model.wide.weight.data[0] *= 1e-5
    path = tmp_path / 'net.safetensors'
    report = pack(model, path, half=True)
    loaded = load_packed(path, Net('scaled_sign'))
    assert set(report.kept_full) == {'stem.bias', 'norm.running_var', 'wide.weight.scale'}
    assert 0 < report.rounding <= 2**-11
    for name, value in model.named_parameters():
        if 'weight' in name and 'norm' not in name and 'stem' not in name:
            continue
        error = (loaded.get_parameter(name) - value).abs()
        assert (error <= (value.abs() * 2**-11).clamp(min=2**-25)).all(), name
    for layer in ('grouped', 'wide'):
        ours = model.get_submodule(layer).effective_weight()
        theirs = loaded.get_submodule(layer).effective_weight()
        assert torch.equal(ours.sign(), theirs.sign())
        assert ((theirs - ours).abs() <= ours.abs() * 2**-11).all()
    assert 'kept at full precision: ' in report.table()
    assert pack(model, path).size > report.size
    assert 'nothing is rounded' in pack(model, path).table()


def test_large_networks_show_how_far_they_are(tmp_path, monkeypatch, capsys):
    pack(shaken(Net('scaled_sign')), tmp_path / 'net.safetensors')
    assert capsys.readouterr().err == ''
    monkeypatch.setattr('mmesbnn.deploy.packed.collecting._LARGE', 10)
    pack(shaken(Net('scaled_sign')), tmp_path / 'net.safetensors')
    shown = capsys.readouterr().err
    assert 'packing' in shown
    assert 'checking' in shown
    assert '100%' in shown


# what cannot be packed ------------------------------------------------------------


def nan(model):
    model.wide.weight.data[0, 0, 0, 0] = float('nan')


def infinite(model):
    model.wide.weight.data[0, 0, 0, 0] = float('inf')


def broken_bias(model):
    model.linear.bias.data[0] = float('nan')


@pytest.mark.parametrize(
    ('binarizer', 'spoil', 'words'),
    [
        ('temperature', soft, r'grouped: its temperature is 0\.25.*3 more'),
        ('scaled_sign', nan, 'wide: its weights hold NaN'),
        ('temperature', infinite, 'wide: its weights hold NaN or infinity'),
        ('real', lambda model: None, 'grouped: its weights are real'),
        ('scaled_sign', broken_bias, r'linear\.bias: it holds NaN'),
    ],
)
def test_names_what_cannot_be_packed(binarizer, spoil, words, tmp_path):
    model = shaken(Net(binarizer))
    spoil(model)
    path = tmp_path / 'net.safetensors'
    path.write_text('before')
    with pytest.raises(PackError, match=words):
        pack(model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == 'before'


def test_a_weight_of_three_values(tmp_path):
    model = BinaryLinear(4, 2, weight_binarizer=dict(type='scaled_sign', zero=0))
    model.weight.data[1, 2] = 0
    with pytest.raises(PackError, match='take 3 values in output channel 1'):
        pack(model, tmp_path / 'x.safetensors')


def test_nothing_binary(tmp_path):
    with pytest.raises(PackError, match='Linear has no binary layer'):
        pack(nn.Linear(3, 3), tmp_path / 'x.safetensors')


def test_targets_that_cannot_be_written(tmp_path):
    with pytest.raises(IsADirectoryError):
        pack(BinaryLinear(3, 3), tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        pack(BinaryLinear(3, 3), tmp_path / 'nowhere' / 'x.safetensors')


# what binarize() replaced ------------------------------------------------------------
