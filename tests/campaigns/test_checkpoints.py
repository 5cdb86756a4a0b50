"""Damaged checkpoints, and pickles made to do harm.

Bad is what crashes, hangs, takes more memory than allowed, ends in an error of Python,
or reads other values than those that were saved.
"""

import zipfile

import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from tests.campaigns.damage import damaged
from tests.checkpoints.hostile import hostile
from tests.checkpoints.pickles import archive
from tests.checkpoints.readers import Reader

READ = 'mmesbnn.checkpoints.read_checkpoint'


def saved(folder):
    """Write good files of all kinds."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    content = {
        'meta': {'epoch': 3, 'dataset_meta': {'classes': ('a', 'b')}},
        'state_dict': network.state_dict(),
        'message_hub': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])},
    }
    zipped, legacy = folder / 'zip.pth', folder / 'legacy.pth'
    torch.save(content, zipped)
    torch.save(network.state_dict(), legacy, _use_new_zipfile_serialization=False)
    save_file(network.state_dict(), folder / 'a.safetensors')
    return zipped, folder / 'a.safetensors', legacy


def test_damaged_checkpoints(campaign, tmp_path):
    *checked, legacy = saved(tmp_path)
    with Reader(READ) as read:
        good = {path: read(path)['read'] for path in (*checked, legacy)}
        for rng in campaign.draws(least=100):
            source = rng.choice([*checked, legacy])
            kind, data = damaged(rng, source.read_bytes())
            path = tmp_path / f'damaged{source.suffix}'
            path.write_bytes(data)
            with campaign.attempt(f'{source.name}: {kind}'):
                answer = read(path)
                assert 'bad' not in answer, answer
                if source.name == 'zip.pth' and 'read' in answer:
                    # the other two kinds have no checksums
                    assert answer['read'] == good[source], answer


def test_archives_with_wrong_members(campaign, tmp_path):
    source, *_ = saved(tmp_path)
    with zipfile.ZipFile(source) as file:
        members = {name: file.read(name) for name in file.namelist()}
    path = tmp_path / 'changed.pth'
    with Reader(READ) as read:
        for rng in campaign.draws(least=40):
            changed, name = dict(members), rng.choice(list(members))
            kind = rng.choice(['damaged', 'missing', 'swapped', 'compressed'])
            method = zipfile.ZIP_STORED
            if kind == 'damaged':
                changed[name] = damaged(rng, changed[name] or b'x')[1]
            elif kind == 'missing':
                del changed[name]
            elif kind == 'swapped':
                other = rng.choice(list(members))
                changed[name], changed[other] = changed[other], changed[name]
            else:
                method = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(path, 'w', method) as file:
                for member, content in changed.items():
                    file.writestr(member, content)
            with campaign.attempt(kind):
                answer = read(path)
                assert 'bad' not in answer, answer


def test_hostile_pickles(campaign, tmp_path):
    cases = list(hostile().items())
    path = tmp_path / 'a.pth'
    with Reader(READ) as read:
        for rng in campaign.draws(least=60):
            name, data = rng.choice(cases)
            group = name.partition(':')[0]
            if rng.random() < 0.7:
                # two of them mixed, or a damaged one
                other = rng.choice(cases)[1]
                at, to = rng.randrange(2, len(data)), rng.randrange(2, len(other))
                data = data[:at] + other[to:] if rng.random() < 0.5 else (damaged(rng, data)[1])
            archive(path, data)
            with campaign.attempt(group):
                answer = read(path)
                assert 'bad' not in answer, answer
