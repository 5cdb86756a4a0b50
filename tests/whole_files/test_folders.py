"""A reader sees the complete old folder or the complete new one."""

import errno
import itertools
import os
from pathlib import Path

import pytest

from mmesbnn.whole_files import check_folder, read_whole, whole_folder
from tests.whole_files.writers import mode, names, write_folder


def test_folders_with_files_that_are_read_are_not_replaced(tmp_path):
    folder, outside = tmp_path / 'folder', tmp_path / 'outside'
    (folder / 'inner').mkdir(parents=True)
    outside.touch()
    (folder / 'inner' / 'x').touch()
    (folder / 'out').symlink_to(outside)
    (tmp_path / 'in').symlink_to(folder / 'inner' / 'x')
    (tmp_path / 'same').symlink_to(folder)
    for root, read in itertools.product(
        (folder, tmp_path / 'same'), (folder / 'inner' / 'x', folder / 'out', tmp_path / 'in')
    ):
        with pytest.raises(OSError, match='overwrite') as caught:
            check_folder(root, None, outside, read, replace=True)
        assert caught.value.filename == str(root)
    assert check_folder(folder, None, outside, folder / 'missing', replace=True) == folder


@pytest.mark.parametrize('closed', ['', 'inner'])
def test_a_folder_whose_files_cannot_be_removed_is_not_replaced(own_folder, closed):
    root = own_folder / 'x'
    write_folder(root, 'old')
    (root / 'inner').mkdir()
    (root / closed).chmod(0o555)
    with pytest.raises(PermissionError) as caught:
        write_folder(root, 'new', replace=True)
    (root / closed).chmod(0o777)
    assert caught.value.filename == str(root / closed)
    assert (root / 'a').read_text() == 'old'
    assert names(own_folder) == ['x']


def test_a_folder_appears_at_the_end(tmp_path, umask):
    root = tmp_path / 'data' / 'digits'
    with whole_folder(root) as partial:
        (partial / 'x').touch()
        assert not root.exists()
    assert names(root) == ['x']
    assert mode(root) == mode(root.parent) == 0o750
    assert list(root.parent.iterdir()) == [root]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    root = tmp_path / 'a' / 'b' / 'x'
    with pytest.raises(KeyboardInterrupt), whole_folder(root) as partial:
        (partial / 'y').touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_parents_that_cannot_all_be_made_are_removed(tmp_path, monkeypatch):
    make = Path.mkdir

    def on_a_full_disk(path, *args, **kwargs):
        if path == tmp_path / 'a' / 'b' and path.parent.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, 'mkdir', on_a_full_disk)
    with pytest.raises(OSError, match='No space left'):
        write_folder(tmp_path / 'a' / 'b' / 'c' / 'd', 'new')
    assert names(tmp_path) == []


def test_a_folder_that_holds_something_is_replaced_if_asked_to(tmp_path):
    root = tmp_path / 'x'
    root.mkdir()
    write_folder(root, 'old')
    root.chmod(0o700)
    with pytest.raises(FileExistsError, match='not empty') as caught:
        write_folder(root, 'new')
    assert caught.value.filename == str(root)
    assert (root / 'a').read_text() == 'old'
    write_folder(root, 'new', replace=True)
    assert (root / 'a').read_text() == 'new'
    assert mode(root) == 0o700
    assert names(tmp_path) == ['x']


def test_a_folder_that_another_process_has_written_is_kept(tmp_path):
    root = tmp_path / 'x'
    message = 'Another process'
    with pytest.raises(FileExistsError, match=message) as caught, whole_folder(root):
        write_folder(root, 'first')
    assert caught.value.filename == str(root)
    assert (root / 'a').read_text() == 'first'
    assert names(tmp_path) == ['x']


def test_an_interrupted_folder_keeps_the_old_one(tmp_path):
    root = tmp_path / 'x'
    write_folder(root, 'old')
    with pytest.raises(ZeroDivisionError), whole_folder(root, replace=True) as partial:
        (partial / 'a').write_text('new')
        raise ZeroDivisionError
    assert (root / 'a').read_text() == 'old'
    assert names(tmp_path) == ['x']


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / 'there').mkdir()
    link = tmp_path / 'x'
    link.symlink_to('there/y')
    for text in ('old', 'new'):
        write_folder(link, text, replace=True)
        assert link.is_symlink()
        assert (tmp_path / 'there/y/a').read_text() == text
    assert names(tmp_path / 'there') == ['y']


def test_folders_that_cannot_be_replaced(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('old')
    for root in (tmp_path / 'file', tmp_path / 'file' / 'x'):
        with pytest.raises(NotADirectoryError):
            write_folder(root, 'new', replace=True)
    inside = tmp_path / 'here' / 'inside'
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for root in ('.', '..', inside):
        with pytest.raises(OSError, match='current folder'):
            write_folder(root, 'new', replace=True)
    with pytest.raises(OSError, match='mount point'):
        write_folder('/proc', 'new', replace=True)
    assert (tmp_path / 'file').read_text() == 'old'
    assert names(tmp_path) == ['file', 'here']


def test_several_files_are_read_from_one_folder(tmp_path):
    root = tmp_path / 'x'
    write_folder(root, 'old')
    turn = []

    def read():
        first = (root / 'a').read_text()
        if not turn:
            turn.append(write_folder(root, 'new', replace=True))
        return first, (root / 'b').read_text()

    assert read_whole(root, read) == ('new', 'new')
    turn.clear()

    def fail():
        text = (root / 'a').read_text()
        if not turn:
            turn.append(write_folder(root, 'newer', replace=True))
            raise ValueError('the sums differ')
        return text

    assert read_whole(root, fail) == 'newer'
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / 'none', (tmp_path / 'none').read_text)

    def always():
        write_folder(root, 'again', replace=True)

    with pytest.raises(OSError, match='again and again'):
        read_whole(root, always)
