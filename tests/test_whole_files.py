"""A reader sees the complete old file or the complete new one."""

import contextlib
import errno
import itertools
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.whole_files import (
    check_file,
    check_folder,
    check_place,
    read_whole,
    remove_unfinished,
    swapping,
    whole_file,
    whole_folder,
)
from mmesbnn.whole_files import partial as partial_module

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


@contextlib.contextmanager
def file_limit(size):
    """Limit the size of files that this process writes to ``size`` bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, text):
    with whole_file(path) as partial:
        partial.write_text(text)


def write_folder(root, text, **options):
    with whole_folder(root, **options) as partial:
        for name in ('a', 'b'):
            (partial / name).write_text(text)


# files


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


def test_new_files_get_the_mode_of_the_umask(tmp_path, umask):
    write(tmp_path / 'x', 'new')
    assert mode(tmp_path / 'x') == 0o640
    # also if the writer makes its own
    with whole_file(tmp_path / 'y') as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT, 0o600))
    assert mode(tmp_path / 'y') == 0o640


@pytest.fixture
def own_folder():
    """Make a folder of a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield folder
        os.seteuid(user)
        folder.chmod(0o777)


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


# disks


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


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


# folders


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


# signals


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
