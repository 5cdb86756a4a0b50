"""Full disks are named, files reach the disk in order, and nothing unfinished stays."""

import contextlib
import errno
import os
import signal
import subprocess
import sys

import pytest

from mmesbnn.whole_files import partial as partial_module
from mmesbnn.whole_files import remove_unfinished, whole_file, whole_folder
from tests.whole_files.writers import ROOT, file_limit, full, names, write, write_folder


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    path = tmp_path / 'x'
    path.write_text('old')
    # an error of a write, which has no file name
    with pytest.raises(OSError) as caught, whole_file(path):
        full()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    # an error of the flush
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError) as caught:
        write(path, 'new')
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == 'old'
    assert names(tmp_path) == ['x']


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_limit_names_the_file(tmp_path, wrapped):
    path = tmp_path / 'x'
    path.write_text('old')
    with pytest.raises(OSError) as caught, file_limit(1000), whole_file(path) as new:
        try:
            new.write_bytes(bytes(5000))
        except OSError:
            if wrapped:  # like torch's error, whose message names no file
                raise RuntimeError('unexpected pos 64') from None
            raise
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == 'old'
    assert names(tmp_path) == ['x']


def test_a_limit_names_the_folder(tmp_path):
    root = tmp_path / 'x'
    for ignored in (OSError, ()):  # by a writer that ignores its errors
        with pytest.raises(OSError) as caught, file_limit(1000), whole_folder(root) as partial:
            (partial / 'small').touch()
            with contextlib.suppress(ignored):
                (partial / 'y').write_bytes(bytes(5000))
            raise RuntimeError('the writer says something else')
        assert caught.value.errno == errno.EFBIG
        assert str(caught.value.filename).startswith(str(root))
    assert names(tmp_path) == []


def test_errors_of_other_files_stay_as_they_are(tmp_path):
    for error in (
        ValueError('x'),
        FileNotFoundError(errno.ENOENT, 'no', 'other'),
        OSError('a text'),
        OSError(errno.ENOSPC, 'full', 'other'),
    ):
        with pytest.raises(type(error)) as caught, whole_file(tmp_path / 'x'):
            raise error
        assert caught.value is error
    assert names(tmp_path) == []


def test_files_and_names_are_flushed_in_order(tmp_path, monkeypatch):
    events = []

    def record(name):
        original = getattr(os, name)

        def call(*args):
            events.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, call)

    record('fsync')
    record('replace')
    write(tmp_path / 'x', 'new')
    assert events == ['fsync', 'replace', 'fsync']
    events.clear()
    with whole_file(tmp_path / 'x', durable=False):
        pass
    assert events == ['replace']
    record('rename')
    events.clear()
    write_folder(tmp_path / 'y', 'new')
    assert events == ['fsync'] * 3 + ['rename', 'fsync']


@pytest.mark.parametrize('able', [True, False])
def test_large_folders_are_flushed_as_a_whole(tmp_path, monkeypatch, able):
    monkeypatch.setattr(partial_module, '_FEW', 2)
    flushed = []
    if not able:
        monkeypatch.setattr(partial_module, '_sync_file_system', lambda path: False)
    monkeypatch.setattr(partial_module, '_sync', flushed.append)
    write_folder(tmp_path / 'y', 'new')
    inside = [path.name for path in flushed if path != tmp_path]
    assert len(inside) == (0 if able else 3)


def test_an_interrupted_removal_is_made_up_for(tmp_path):
    """A second Ctrl-C comes while the files of the first are removed."""
    code = f"""
import os, shutil
from pathlib import Path
from mmesbnn.whole_files import whole_file, whole_folder
original = Path.unlink, shutil.rmtree
def stop(*_, **__):
    Path.unlink, shutil.rmtree = original
    raise KeyboardInterrupt
try:
    with whole_file({str(tmp_path / 'x')!r}):
        Path.unlink = stop
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
with whole_folder({str(tmp_path / 'y')!r}):
    shutil.rmtree = stop
    raise KeyboardInterrupt
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGINT
    assert names(tmp_path) == []


def test_a_child_process_removes_nothing_of_its_parent(tmp_path):
    with whole_file(tmp_path / 'x') as partial:
        partial.write_text('new')
        child = os.fork()
        if not child:
            remove_unfinished()
            os._exit(0)
        os.waitpid(child, 0)
        assert partial.exists()
    assert (tmp_path / 'x').read_text() == 'new'
