"""Saved files are read with equal values; damage, bombs and FIFOs are refused."""

import argparse
import os
import socket
import struct
import threading
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmesbnn.checkpoints import CheckpointError, metadata_of, read_checkpoint
from mmesbnn.checkpoints.reading import explained
from tests.checkpoints.pickles import archive, array, dtype, plain, program, raw, tensor

TORCH_ONLY = {
    'eight bits': torch.arange(3.0).to(torch.float8_e4m3fn),
    'uint16': torch.ones(3, dtype=torch.uint16),
}


def content():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    large = torch.randn(50, 50)
    return {
        'state_dict': network.state_dict(),
        'parameter': network[0].weight,
        'optimizer': optimizer.state_dict(),
        'schedule': schedule.state_dict(),
        'plain': [1, -1, 2**70, 1.5, True, None, 'ä', b'\xff', bytearray(b'a'), 3j],
        'nested': (1, (2, [3, {'a': ()}]), {4, 5}),
        'torch': [torch.Size([2]), torch.float16, torch.device('cpu')],
        'counter': Counter([1, 1, 2]),
        'args': argparse.Namespace(a=1),
        'arrays': [
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.arange(3, dtype='>i4'),
            np.array(3.0),
            np.empty((0, 2)),
            np.float32(2.5),
            np.array([True, False]),
        ],
        'numpy state': np.random.RandomState(0).get_state(),
        'large': large,
        'tied': large,
        'view': large[:2, 3:4].t(),
        'bfloat16': torch.ones(2, dtype=torch.bfloat16),
        'complex': torch.ones(2, dtype=torch.complex64),
        'bool': torch.tensor([True, False]),
        'empty': torch.empty(0, 3),
        'scalar': torch.tensor(3),
    }


def assert_equal(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.stride() == b.stride()
        assert a.requires_grad == b.requires_grad
        if a.dtype == torch.float8_e4m3fn:
            a, b = a.float(), b.float()
        assert torch.equal(a, b)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b)
        assert a.flags.writeable and a.flags.f_contiguous == b.flags.f_contiguous
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert getattr(a, '_metadata', None) == getattr(b, '_metadata', None)
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.mark.parametrize('legacy', [False, True])
def test_all_values_are_those_of_torch(tmp_path, legacy):
    path = tmp_path / 'a.pth'
    saved = content() if legacy else {**content(), **TORCH_ONLY}
    if torch.__version__ < '2.6':  # torch cannot save it
        saved.pop('uint16', None)
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(path)
    assert_equal(read, torch.load(path, weights_only=False))
    assert read['tied'].data_ptr() == read['large'].data_ptr()
    assert read['view'].data_ptr() == read['large'].data_ptr() + 12


@pytest.mark.parametrize('name', ['archive.pth', 'legacy.pth', 'a.safetensors'])
def test_values_are_read_whatever_torchs_default_device_is(tmp_path, name):
    path, saved = tmp_path / name, {'a': torch.arange(6.0), 'b': torch.tensor([True, False])}
    if path.suffix == '.safetensors':
        save_file(saved, path)
    else:
        torch.save(saved, path, _use_new_zipfile_serialization=name != 'legacy.pth')
    with torch.device('meta'):
        read = read_checkpoint(path)
    assert_equal(read, saved)


@pytest.mark.skipif(torch.__version__ < '2.6', reason='this torch always writes checksums')
def test_files_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content(), tmp_path / 'a.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert_equal(
        read_checkpoint(tmp_path / 'a.pth'), torch.load(tmp_path / 'a.pth', weights_only=False)
    )


def test_good_pickles_written_by_hand_are_read(tmp_path):
    """Otherwise the hostile pickles could be refused for other reasons."""
    eight = raw(np.float64(0.5).tobytes())
    for ops in (array((1,), dtype(), eight), tensor(), tensor((2, 2), (0, 1))):
        value = read_checkpoint(archive(tmp_path / 'a.pth', program(ops)))
        assert value.tolist() in ([0.5], [1, 2, 3, 4], [[1, 2], [1, 2]])


@pytest.mark.parametrize('bit', range(8))
def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path, bit):
    path = tmp_path / 'a.pth'
    torch.save({'w': torch.full((1000,), 3.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.full(9, 3, 'f4').tobytes())] ^= 1 << bit
    path.write_bytes(data)
    torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(CheckpointError, match="checksum of 'data/0' is wrong"):
        read_checkpoint(path)


def test_bombs_are_refused(tmp_path):
    path, zeros = tmp_path / 'a.pth', bytes(2**20)
    archive(path, program(plain(1)), {'data/0': zeros}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match='compressed members'):
        read_checkpoint(path)


def test_a_directory_of_two_sizes_is_bounded(tmp_path):
    count = 2**11
    entries = (b'PK\x01\x02' + bytes(24) + struct.pack('<H', 1) + bytes(16) + b'a') * count
    numbers = [44, 0, 0, 0, 0, count, count, len(entries), 0]
    end_64 = struct.pack('<4sQHHIIQQQQ', b'PK\x06\x06', *numbers)
    locator = struct.pack('<4sIQI', b'PK\x06\x07', 0, len(entries), 1)
    end = struct.pack('<4sHHHHIIH', b'PK\x05\x06', 0, 0, 1, 1, 47, 0, 0)  # says: one entry
    path = tmp_path / 'a.pth'
    path.write_bytes(b'PK\x03\x04' + bytes(27) + entries + end_64 + locator + end)
    with pytest.raises(CheckpointError, match='takes up more than 1000000 bytes'):
        read_checkpoint(path, max_bytes=10**6)


def test_a_limit_that_can_be_raised(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'w': torch.ones(1).expand(2**30)}, path)
    with pytest.raises(CheckpointError, match=r'raise max_bytes \(--max-bytes\)'):
        read_checkpoint(path)
    assert read_checkpoint(path, max_bytes=2**33)['w'].shape == (2**30,)
    with pytest.raises(CheckpointError, match='more than 100 bytes'):
        read_checkpoint(path, max_bytes=100)


@pytest.mark.parametrize('value', [0, -1, 1.5, True, 'a'])
def test_wrong_limits_are_named(tmp_path, value):
    with pytest.raises(ValueError, match=r'max_bytes=.* must be a positive int'):
        read_checkpoint(tmp_path, max_bytes=value)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_what_is_no_regular_file_is_refused(tmp_path, suffix):
    path = tmp_path / f'a.{suffix}'
    os.mkfifo(path)
    done = []
    thread = threading.Thread(target=lambda: done.append(no_file(path)), daemon=True)
    thread.start()
    thread.join(20)
    assert done and 'a named pipe, not a file' in done[0]
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert no_file(path)
    assert 'a device, not a file' in no_file('/dev/zero')
    assert 'a folder, not a file' in no_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / 'none')


def no_file(path):
    with pytest.raises(OSError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def test_networks_of_torchscript_are_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / 'a.pth')
    assert 'TorchScript' in refusal(tmp_path / 'a.pth')


def test_attributes_of_a_state_dict_do_not_hide_its_methods(tmp_path):
    state = OrderedDict(w=torch.ones(1))
    state._metadata = OrderedDict({'': {'version': 1}})
    state.keys = 3  # pickle itself uses items
    torch.save(state, tmp_path / 'a.pth')
    read = read_checkpoint(tmp_path / 'a.pth')
    assert list(read.keys()) == ['w'] and list(read.items()) == [('w', torch.ones(1))]
    assert read._metadata == {'': {'version': 1}}


def test_safetensors_are_read(tmp_path):
    tensors = {
        'a': torch.arange(6.0).view(2, 3),
        'b': torch.ones(()),
        'c': torch.empty(0, 2),
        'd': torch.tensor([True]),
    }
    save_file(tensors, tmp_path / 'a.safetensors', {'x': 'y'})
    assert_equal(dict(sorted(read_checkpoint(tmp_path / 'a.safetensors').items())), tensors)


def safetensors(header, data=bytes(16)):
    return len(header).to_bytes(8, 'little') + header.encode() + data


ENTRY = '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\xff' * 8,
        safetensors(ENTRY)[:-1],
        safetensors(ENTRY) + b'\0',
        safetensors(ENTRY.replace('[4]', '[5]')),
        safetensors(ENTRY.replace('[4]', '[-4]')),
        safetensors(ENTRY.replace('[4]', '[4.0]')),
        safetensors(ENTRY.replace('[4]', '[true]')),
        safetensors(ENTRY.replace('[0,16]', '[16,0]')),
        safetensors(ENTRY.replace('[0,16]', '[16,32]')),
        safetensors(ENTRY.replace('[4]', f'[0,{2**48},{2**48}]').replace('16]', '0]'), b''),
        safetensors(ENTRY.replace('F32', 'F8_E4M3')),
        safetensors(ENTRY.replace('"F32"', '[]')),
        safetensors(ENTRY.replace('"a":', '"a":{},"a":')),
        safetensors('[1]'),
        safetensors('[' * 10**5),
        safetensors('{"__metadata__":{"a":1}}', b''),
        (2**40).to_bytes(8, 'little') + b'{}',
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, content):
    path = tmp_path / 'a.safetensors'
    path.write_bytes(safetensors(ENTRY))
    assert list(read_checkpoint(path)) == ['a']
    path.write_bytes(content)
    assert str(path) in refusal(path)


def test_a_shape_with_more_than_63_bits_is_refused(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save({'w': torch.zeros(0).view(0, 2**31, 2**31)}, path)
    assert read_checkpoint(path)['w'].numel() == 0
    torch.save({'w': torch.zeros(0).view(0, 2**48, 2**48)}, path)
    assert 'wrong shape' in refusal(path)


def test_metadata_are_read_alone(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(safetensors('{"__metadata__":{"b":"c"},' + ENTRY[1:]))
    assert metadata_of(path) == {'b': 'c'}
    path.write_bytes(safetensors(ENTRY))
    assert metadata_of(path) == {}
    torch.save({'w': torch.zeros(2)}, path)
    assert metadata_of(path) is None


def test_a_lack_of_memory_is_no_damage():
    with pytest.raises(MemoryError, match=r'^net\.pth: not enough memory'), explained('net.pth'):
        torch.empty(2**50, dtype=torch.uint8)
