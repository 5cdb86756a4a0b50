"""A reader sees the complete old file or the complete new one."""

import errno
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.whole_files import (
    check_file,
    check_folder,
    check_place,
    read_whole,
    whole_file,
    whole_folder,
)
from tests.whole_files.writers import ROOT, mode, names, write, write_folder


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / 'x.txt'
    path.write_text('old')
    with whole_file(path) as partial:
        partial.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError('x'), SystemExit])
def test_an_interrupted_file_leaves_the_old_one_whole(tmp_path, error):
    path = tmp_path / 'x.txt'
    path.write_text('old')
    with pytest.raises(BaseException) as caught, whole_file(path) as partial:
        partial.write_text('ne')
        raise error
    assert caught.type is (error if isinstance(error, type) else type(error))
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / 'no' / 'x'
    with pytest.raises(FileNotFoundError, match='No such folder') as caught:
        write(path, 'new')
    assert caught.value.filename == str(path)


def test_a_place_for_files_is_checked_before_the_work(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    assert check_place(tmp_path) == tmp_path  # with files in it
    assert check_place(tmp_path / 'a' / 'b') == tmp_path / 'a' / 'b'
    for name, error in {
        'file': NotADirectoryError,
        'file/x': NotADirectoryError,
        'loop': OSError,
        'n' * 300: OSError,
    }.items():
        with pytest.raises(error) as caught:
            check_place(tmp_path / name)
        assert caught.value.filename in (tmp_path / name, str(tmp_path / name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'loop']


@pytest.mark.parametrize('use', [check_file, check_folder, check_place, read_checkpoint])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, use):
    path = tmp_path / 'a\0b'
    with pytest.raises(OSError, match='The name holds a zero byte') as caught:
        use(path)
    assert caught.value.filename in (path, str(path))


def test_a_folder_that_no_file_can_be_is_read_once(tmp_path):
    with pytest.raises(FileNotFoundError, match='none there'):
        read_whole(tmp_path / 'a\0b', raise_missing)


def raise_missing():
    raise FileNotFoundError('none there')


def test_files_that_are_read_are_not_overwritten(tmp_path, monkeypatch):
    path, link, hard = (tmp_path / name for name in ('x', 'link', 'hard'))
    path.write_text('old')
    link.symlink_to(path)
    hard.hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    names = (path, link, hard, Path('x'), Path('../') / tmp_path.name / 'x')
    for written, read in itertools.product(names, names):
        with pytest.raises(OSError, match='overwrite') as caught:
            check_file(written, None, tmp_path / 'missing', read)
        assert caught.value.filename == str(written)
    (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
    others = (None, tmp_path / 'another', tmp_path / 'loop', 'n' * 300, path / 'x', tmp_path)
    assert check_file(path, *others) == path


def test_new_files_get_the_mode_of_the_umask(tmp_path, umask):
    write(tmp_path / 'x', 'new')
    assert mode(tmp_path / 'x') == 0o640
    # also if the writer makes its own
    with whole_file(tmp_path / 'y') as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT, 0o600))
    assert mode(tmp_path / 'y') == 0o640


def test_a_umask_that_forbids_all_forbids_no_writing(own_folder):
    old = os.umask(0o777)
    try:
        write(own_folder / 'x', 'new')
        write_folder(own_folder / 'y', 'new')
    finally:
        os.umask(old)
    assert mode(own_folder / 'x') == mode(own_folder / 'y') == 0


def test_replaced_files_keep_their_mode(tmp_path):
    path = tmp_path / 'x'
    path.write_text('old')
    path.chmod(0o600)
    with whole_file(path) as partial:
        assert mode(partial) == 0o600
        partial.write_text('new')
    assert mode(path) == 0o600


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / 'there').mkdir()
    path, target = tmp_path / 'x', tmp_path / 'there' / 'y'
    path.symlink_to(target)
    for text in ('first', 'second'):  # there is no file yet, then there is one
        write(path, text)
        assert path.is_symlink()
        assert target.read_text() == text
    assert names(tmp_path / 'there') == ['y']


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / 'fifo')
    (tmp_path / 'link').symlink_to('/dev/null')
    for path in (tmp_path / 'fifo', tmp_path / 'link', '/dev/null'):
        before = os.stat(path)
        with pytest.raises(OSError, match='Not a regular file') as caught:
            write(path, 'new')
        assert caught.value.filename == str(path)
        assert os.path.samestat(os.stat(path), before)
    with pytest.raises(IsADirectoryError):
        write(tmp_path, 'new')
    assert names(tmp_path) == ['fifo', 'link']


def test_a_name_with_a_way_through_what_is_no_folder(tmp_path):
    (tmp_path / 'file').touch()
    write(tmp_path / 'file' / '..' / 'x', 'new')
    assert names(tmp_path) == ['file', 'x']
    for inner in ('file', 'missing'):
        with pytest.raises(IsADirectoryError):
            check_file(tmp_path / inner / '..' / '..' / tmp_path.name)


@pytest.mark.skipif(not Path('/proc/self/fd').is_dir(), reason='needs names of open files')
def test_a_name_of_an_open_pipe_is_refused_before_the_work():
    handles = os.pipe()
    try:
        path = Path(f'/proc/self/fd/{handles[1]}')
        with pytest.raises(OSError, match='Not a regular file'):
            check_file(path)
        for check in (check_folder, check_place):
            with pytest.raises(NotADirectoryError):
                check(path)
    finally:
        for handle in handles:
            os.close(handle)


def test_the_own_output_is_not_replaced(tmp_path):
    code = (
        'from mmesbnn.whole_files import whole_file\n'
        'print("a line", flush=True)\n'
        'with whole_file("/dev/stdout") as partial: partial.write_text("json")'
    )
    with open(tmp_path / 'out.txt', 'w') as out:
        done = subprocess.run(
            [sys.executable, '-c', code], stdout=out, stderr=subprocess.PIPE, cwd=ROOT
        )
    assert b'The output of this process goes there' in done.stderr
    assert (tmp_path / 'out.txt').read_text() == 'a line\n'


@pytest.mark.parametrize('what', ['file', 'folder'])
def test_rights_are_needed(own_folder, what):
    path, root = own_folder / 'in' / 'x', own_folder / 'in' / 'y'
    path.parent.mkdir()
    path.write_text('old')
    write_folder(root, 'old')
    if what == 'file':
        path.chmod(0o444)
    else:
        path.parent.chmod(0o555)
    with pytest.raises(PermissionError) as caught:
        write(path, 'new')
    assert caught.value.filename == str(path)
    if what == 'folder':
        for root in (own_folder / 'in' / 'y', own_folder / 'in' / 'z' / 'z'):
            with pytest.raises(PermissionError) as caught:
                write_folder(root, 'new', replace=True)
            assert caught.value.filename == str(root)
    assert path.read_text() == (own_folder / 'in/y/a').read_text() == 'old'


def test_a_file_that_is_a_mount_point_is_refused_before_the_work(tmp_path, monkeypatch):
    path = tmp_path / 'x'
    path.write_text('old')
    monkeypatch.setattr(os.path, 'ismount', lambda target: target == path)
    with pytest.raises(OSError, match='mount the folder') as caught:
        check_file(path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize('name', ['x' * 255, 'ä' * 127, b'caf\xe9\xff' * 40])
def test_long_and_odd_names(tmp_path, name):
    name = os.fsdecode(name)
    write(tmp_path / name, 'new')
    write_folder(tmp_path / name[:-1], 'new')
    assert names(tmp_path) == sorted([name, name[:-1]])
    with pytest.raises(OSError) as caught:
        write(tmp_path / ('x' * 256), 'new')
    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs Linux')
def test_writers_get_a_name_that_is_text(tmp_path):
    folder = tmp_path / os.fsdecode(b'caf\xe9')
    folder.mkdir()
    with whole_file(folder / 'x') as partial:
        # as a library in C++ would open it
        Path(os.fspath(partial).encode().decode()).write_text('new')
        with pytest.raises(OSError) as caught, whole_file(folder / 'y') as other:
            os.rmdir(other)
        assert caught.value.filename == str(folder / 'y')
    for text in ('old', 'new'):
        with whole_folder(folder / 'z', replace=True) as partial:
            Path(os.fspath(partial).encode().decode(), 'a').write_text(text)
    assert (folder / 'z/a').read_text() == 'new'
    assert names(folder) == ['x', 'z']
    handles = len(os.listdir('/proc/self/fd'))
    with pytest.raises(KeyboardInterrupt), whole_file(folder / 'x'):
        raise KeyboardInterrupt
    assert len(os.listdir('/proc/self/fd')) == handles
    assert names(folder) == ['x', 'z']


def test_writers_at_once_do_not_mix(tmp_path):
    path, errors = tmp_path / 'x', []

    def repeat(letter):
        try:
            for _ in range(30):
                with whole_file(path, durable=False) as partial, partial.open('w') as file:
                    for _ in range(50):
                        file.write(letter * 100)
                        file.flush()
                text = path.read_text()
                assert len(text) == 5000 and len(set(text)) == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=letter) for letter in 'abcd']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert names(tmp_path) == ['x']
