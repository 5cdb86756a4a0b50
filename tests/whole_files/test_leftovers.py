"""Files left by killed processes are removed, and no others."""

import os
import subprocess
import sys

from mmesbnn.whole_files import remove_leftovers, whole_file
from mmesbnn.whole_files.partial import computer

BEGIN = """
import os, signal, sys
from mmesbnn.whole_files import whole_file
with whole_file(sys.argv[1]) as partial:
    partial.write_text('half')
    if sys.argv[2] == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    print(partial.name, flush=True)
    input()
"""


def begin(path, end):
    return subprocess.Popen(
        [sys.executable, '-c', BEGIN, str(path), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_files_of_dead_processes_are_removed(tmp_path):
    begin(tmp_path / 'a.pth', 'die').wait()
    (partial,) = tmp_path.iterdir()
    assert remove_leftovers(tmp_path) == [partial]
    assert not list(tmp_path.iterdir())


def test_files_of_living_processes_stay(tmp_path):
    with begin(tmp_path / 'a.pth', 'live') as process:
        name = process.stdout.readline().strip()
        assert remove_leftovers(tmp_path) == []
        assert (tmp_path / name).exists()
        process.communicate('\n')
    assert [path.name for path in tmp_path.iterdir()] == ['a.pth']


def test_a_number_that_this_process_got_again_is_no_other_process(tmp_path):
    with whole_file(tmp_path / 'a.pth') as partial:
        name = partial.name
    assert f'.{os.getpid()}-' in name
    (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == [tmp_path / name]


def test_files_of_other_computers_stay(tmp_path, monkeypatch):
    dead = begin(tmp_path / 'a.pth', 'die')
    dead.wait()
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(f'.a.pth.{dead.pid}-')
    with monkeypatch.context() as patch:
        patch.setattr('socket.gethostname', lambda: 'another')
        assert remove_leftovers(tmp_path) == []
    assert remove_leftovers(tmp_path) == [partial]


def test_other_files_stay(tmp_path):
    here = f'{2**22 + 1}-{computer()}'
    names = ['a.pth', '.a.part', f'a.{here}-0a.part', f'.a.{here}.part', '.a.x-0a.part']
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / f'.folder.{here}-0a.part').mkdir()
    assert remove_leftovers(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == len(names) + 1
