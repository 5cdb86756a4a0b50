"""A folder takes the place of another without a gap, or with two renames."""

import errno
import os
import subprocess
import sys

import pytest

from mmesbnn.whole_files import swapping
from tests.whole_files.writers import names, write_folder

READER = """
import os, sys
root, reads, missing = sys.argv[1], 0, 0
print('ready', flush=True)
while not os.path.exists(sys.argv[2]):
    reads += 1
    try:
        folder = os.open(root, os.O_RDONLY)
    except FileNotFoundError:
        missing += 1
        continue
    os.close(folder)
print(reads, missing)
"""


def replace_beside_a_reader(tmp_path, times=100):
    """Return the number of reads, and of reads that found no folder."""
    root, stop = tmp_path / 'x', tmp_path / 'stop'
    write_folder(root, 'old')
    reader = subprocess.Popen(
        [sys.executable, '-c', READER, root, stop], stdout=subprocess.PIPE, text=True
    )
    reader.stdout.readline()
    for i in range(times):
        write_folder(root, f'{i}', replace=True)
    stop.touch()
    reads, missing = map(int, reader.communicate(timeout=60)[0].split())
    assert names(tmp_path) == ['stop', 'x']
    return reads, missing


def can_exchange(folder):
    for name in ('first', 'second'):
        (folder / name).mkdir()
    return swapping.exchange(folder / 'first', folder / 'second')


def test_a_reader_never_meets_a_gap(tmp_path):
    (tmp_path / 'try').mkdir()
    if not can_exchange(tmp_path / 'try'):
        pytest.skip('names cannot be exchanged here')
    (tmp_path / 'data').mkdir()
    reads, missing = replace_beside_a_reader(tmp_path / 'data')
    assert reads > 50 and missing == 0


def test_without_exchange_there_are_two_renames(tmp_path, monkeypatch):
    monkeypatch.setattr(swapping, 'exchange', lambda first, second: False)
    replace_beside_a_reader(tmp_path, times=20)
    assert (tmp_path / 'x/a').read_text() == '19'


@pytest.mark.parametrize('error', [OSError(errno.EIO, 'x'), KeyboardInterrupt()])
def test_without_exchange_a_failed_rename_is_undone(tmp_path, monkeypatch, error):
    monkeypatch.setattr(swapping, 'exchange', lambda first, second: False)
    root, rename = tmp_path / 'x', os.rename
    write_folder(root, 'old')

    def fail(source, target):
        if os.fspath(target) == os.fspath(root) and str(source).endswith('.part'):
            raise error
        rename(source, target)

    monkeypatch.setattr(os, 'rename', fail)
    with pytest.raises(type(error)):
        write_folder(root, 'new', replace=True)
    assert (root / 'a').read_text() == 'old'
    assert names(tmp_path) == ['x']


@pytest.mark.parametrize('before', [True, False])
def test_without_exchange_a_signal_at_the_last_rename_leaves_nothing(tmp_path, monkeypatch, before):
    monkeypatch.setattr(swapping, 'exchange', lambda first, second: False)
    rename = os.rename
    write_folder(tmp_path / 'x', 'old')

    def stop_once(source, target):
        monkeypatch.setattr(os, 'rename', rename)
        if not before:
            rename(source, target)
        raise KeyboardInterrupt

    def count(source, target):
        rename(source, target)
        if str(source).endswith('.part'):
            monkeypatch.setattr(os, 'rename', stop_once)

    monkeypatch.setattr(os, 'rename', count)
    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / 'x', 'new', replace=True)
    assert (tmp_path / 'x/a').read_text() == 'new'
    assert names(tmp_path) == ['x']


@pytest.mark.parametrize('step', ['copy', 'remove', 'rename'])
def test_a_folder_that_must_be_copied_stays_whole(tmp_path, monkeypatch, step):
    """As in a lower layer of a container."""
    monkeypatch.setattr(swapping, 'exchange', lambda first, second: False)
    root, rename, unlink = tmp_path / 'x', os.rename, os.unlink
    write_folder(root, 'old')

    def refuse(source, target):
        if os.fspath(source) == os.fspath(root) or (
            step == 'rename' and str(source).endswith('.part')
        ):
            raise OSError(errno.EXDEV, 'Invalid cross-device link')
        rename(source, target)

    def fill(source, target, **options):
        raise OSError(errno.ENOSPC, 'No space left on device', str(target))

    def stop_later(path, **options):
        monkeypatch.setattr(os, 'unlink', unlink)
        unlink(path, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'rename', refuse)
    if step == 'copy':
        monkeypatch.setattr(swapping.shutil, 'copyfile', fill)
    elif step == 'remove':
        monkeypatch.setattr(os, 'unlink', stop_later)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write_folder(root, 'new', replace=True)
    assert [(root / name).read_text() for name in names(root)] == ['old', 'old']
    assert names(tmp_path) == ['x']


def test_without_exchange_the_folder_of_another_process_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(swapping, 'exchange', lambda first, second: False)
    root, rename = tmp_path / 'x', os.rename
    write_folder(root, 'old')

    def interleave(source, target):
        rename(source, target)
        if os.fspath(source) == os.fspath(root):
            monkeypatch.setattr(os, 'rename', rename)
            write_folder(root, 'other')

    monkeypatch.setattr(os, 'rename', interleave)
    with pytest.raises(OSError, match='Another process has written the folder'):
        write_folder(root, 'new', replace=True)
    assert (root / 'a').read_text() == 'other'
    assert names(tmp_path) == ['x']


def test_exchange_says_that_a_system_cannot(tmp_path, monkeypatch):
    class Library:
        def __init__(self, *_, **__):
            pass

    monkeypatch.setattr(swapping.ctypes, 'CDLL', Library)
    assert not swapping.exchange(tmp_path / 'a', tmp_path / 'b')
