"""Command lines end with one line and the right status, and leave no files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmesbnn import cli
from mmesbnn.errors import MmesbnnError

ROOT = Path(__file__).resolve().parents[1]
#: Tools in tools/dev are only for this repository.
TOOLS = sorted(
    path
    for path in (ROOT / 'tools').rglob('*.py')
    if path.parent.name != 'dev' and "__name__ == '__main__'" in path.read_text()
)
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
TOLD = {
    signal.SIGINT: 'stopped by Ctrl-C',
    signal.SIGTERM: 'stopped by SIGTERM',
    signal.SIGHUP: 'stopped by SIGHUP',
}

#: Needs neither torch nor mmengine, so that it starts at once.
PRELUDE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'mmengine'):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Block())
import os, signal, time
from mmesbnn import cli
from mmesbnn.whole_files import whole_file, whole_folder

def ready():
    print('ready', flush=True)
    time.sleep(60)
"""


def start(code, folder, **options):
    script = folder / 'script.py'
    script.write_text(f'{PRELUDE}\n{code}\ncli.run(main)')
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **options.pop('env', {})}
    work = folder / 'work'
    work.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, script],
        cwd=work,
        env=env,
        text=True,
        **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options},
    )


def run(code, folder, **options):
    """Return status, output and errors of a command line."""
    process = start(code, folder, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def stopped(code, folder, number, times=1):
    process = start(code, folder)
    assert process.stdout.readline() == 'ready\n'
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def left(folder):
    return sorted(path.name for path in (folder / 'work').rglob('*'))


@pytest.mark.parametrize(
    ('statement', 'status', 'line'),
    [
        ('return None', 0, ''),
        ('return 1', 1, ''),
        ('sys.exit(3)', 3, ''),
        ('raise ValueError("tau=3")', 2, 'script.py: tau=3\n'),
        ('raise ImportError("no\\nopenvino")', 2, 'script.py: no openvino\n'),
        ('open("no/x")', 2, 'script.py: No such file or directory: no/x\n'),
        ('raise MemoryError', 2, 'script.py: MemoryError\n'),
        ('raise KeyboardInterrupt', 130, 'script.py: stopped by Ctrl-C\n'),
        ('"caf\\udce9".encode()', 2, None),
    ],
)
def test_statuses_and_lines(tmp_path, statement, status, line):
    code, out, err = run(f'def main(): {statement}', tmp_path)
    assert (code, out) == (status, '')
    if line is None:
        assert err.count('\n') == 1 and 'Traceback' not in err
    else:
        assert err == line


def test_errors_of_ours_are_mendable(monkeypatch, capsys):
    def main():
        raise MmesbnnError('layer x is real')

    monkeypatch.setattr(sys, 'argv', ['there/tool.py'])
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == 'tool.py: layer x is real\n'


def test_a_fault_of_ours_keeps_its_trace(tmp_path):
    code, _, err = run('def main(): [][0]', tmp_path)
    assert code == 1 and 'Traceback' in err and 'IndexError' in err


WRITE = """
def main():
    with whole_file('x') as file, whole_folder('a/y') as folder:
        file.write_text('half')
        (folder / 'z').write_text('half')
        {}
"""


@pytest.mark.parametrize('number', STATUS)
@pytest.mark.parametrize(
    'last',
    [
        'ready()',
        # the interrupted code raises another error
        'try: ready()\n        except BaseException: raise RuntimeError("torn")',
    ],
)
def test_a_signal_leaves_nothing(tmp_path, number, last):
    code, _, err = stopped(WRITE.format(last), tmp_path, number)
    assert (code, err) == (STATUS[number], f'script.py: {TOLD[number]}\n')
    assert left(tmp_path) == []


@pytest.mark.parametrize('number', STATUS)
def test_a_second_signal_ends_what_does_not_listen(tmp_path, number):
    last = """
        while True:
            try: ready()
            except BaseException: print('not heard', flush=True)
    """
    code, out, err = stopped(WRITE.format(last), tmp_path, number, times=3)
    assert (code, err) == (STATUS[number], f'script.py: {TOLD[number]}\n')
    assert out.startswith('not heard')
    # other processes may use the parent folder by now
    assert [name for name in left(tmp_path) if name != 'a'] == []


def test_one_signal_ends_what_does_not_listen_after_a_while(tmp_path):
    last = """
        cli.PATIENCE = 1
        while True:
            try: ready()
            except BaseException: pass
    """
    code, _, err = stopped(WRITE.format(last), tmp_path, signal.SIGTERM)
    assert (code, err) == (143, 'script.py: stopped by SIGTERM\n')
    assert [name for name in left(tmp_path) if name != 'a'] == []


@pytest.mark.parametrize('number', STATUS)
def test_a_signal_where_python_cannot_raise_is_heard(tmp_path, number):
    last = """
        cli.PATIENCE = 1000
        class Slow:
            def __del__(self):
                ready()
        Slow()
        time.sleep(60)
    """
    code, _, err = stopped(WRITE.format(last), tmp_path, number)
    assert (code, err) == (STATUS[number], f'script.py: {TOLD[number]}\n')
    assert left(tmp_path) == []


def test_signals_that_are_ignored_stay_so(tmp_path):
    """nohup and background jobs of a shell depend on it."""
    code = """
def main():
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(os.getpid(), number)
    print('went on')
"""
    ignore = 'signal.signal(signal.SIGHUP, signal.SIG_IGN)\n'
    ignore += 'signal.signal(signal.SIGINT, signal.SIG_IGN)\n'
    assert run(ignore + code, tmp_path) == (0, 'went on\n', '')


def test_handlers_are_put_back(monkeypatch):
    before = [signal.getsignal(number) for number in (*STATUS, signal.SIGALRM)]
    monkeypatch.setattr(sys, 'argv', ['tool.py'])
    for action in (lambda: None, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        with pytest.raises(SystemExit):
            cli.run(action)
    assert [signal.getsignal(n) for n in (*STATUS, signal.SIGALRM)] == before
    assert signal.alarm(0) == 0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_child_process_ends_as_usual(tmp_path, number):
    code = f"""
def main():
    child = os.fork()
    if not child:
        ready()
    time.sleep(0.5)
    os.kill(child, {int(number)})
    status = os.waitpid(child, 0)[1]
    print(os.WIFSIGNALED(status), os.WTERMSIG(status))
"""
    if number == signal.SIGINT:  # a data loader's worker catches it
        code = code.replace('        ready()', '        wait()')
        code = f"""
def wait():
    try: ready()
    except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGINT + 7)
{code}"""
    status, out, err = run(code, tmp_path)
    expected = signal.SIGKILL if number == signal.SIGINT else number
    assert (status, out, err) == (0, f'ready\nTrue {int(expected)}\n', '')


def test_a_child_process_has_no_handler_that_a_lock_holds_up(tmp_path):
    # multiprocessing ends a worker that waits for a lock, where no handler runs
    code = """
def main():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
    else:
        default = [signal.getsignal(n) is signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)]
        print(*default, flush=True)
        os._exit(0)
"""
    assert run(code, tmp_path) == (0, 'True True\nTrue\n', '')


PRINT = 'def main(): print("caf\\udce9 \\u4e8c")'


@pytest.mark.parametrize(
    ('encoding', 'expected'), [('utf-8', 'caf\udce9 二\n'), ('ascii', 'caf\udce9 \\u4e8c\n')]
)
def test_any_name_can_be_printed(tmp_path, encoding, expected):
    options = dict(env={'PYTHONIOENCODING': encoding}, errors='surrogateescape', encoding='utf-8')
    assert run(PRINT, tmp_path, **options) == (0, expected, '')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='there is no /dev/full')
@pytest.mark.parametrize('count', [1, 10_000])
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_full_disk_behind_the_output_is_told(tmp_path, count, unbuffered):
    with open('/dev/full', 'w') as full:
        code = f'def main():\n    for _ in range({count}): print("x" * 80)'
        env = {'PYTHONUNBUFFERED': unbuffered}
        status, _, err = run(code, tmp_path, stdout=full, env=env)
    assert status == 2
    assert err == 'script.py: No space left on device: the standard output\n'


@pytest.mark.parametrize('count', [1, 10_000])
def test_a_reader_that_went_away_is_no_error(tmp_path, count):
    code = f"""
def main():
    time.sleep(0.5)
    for _ in range({count}): print('x' * 80)
"""
    process = start(code, tmp_path)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ''
    process.stderr.close()


def test_closed_outputs_do_no_harm(tmp_path):
    code = 'import sys; sys.stdout = None\ndef main(): print("x")'
    assert run(code, tmp_path) == (0, '', '')


@pytest.mark.skipif(os.name != 'posix', reason='needs a shell')
def test_closed_streams_are_replaced(tmp_path):
    code = """
def main():
    with open('result', 'w') as file:
        sys.stdout.write('x')
        sys.stderr.write('x')
        for number in range(3):
            os.fstat(number)
            os.write(number, b'from C')
        file.write('whole')
"""
    (tmp_path / 'script.py').write_text(f'{PRELUDE}\n{code}\ncli.run(main)')
    closed = f'exec "{sys.executable}" "{tmp_path}/script.py" <&- >&- 2>&-'
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(['sh', '-c', closed], cwd=tmp_path, env=env, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / 'result').read_text() == 'whole'


def caught(process):
    """Return the signals for which the process has handlers, as a set of bits."""
    for line in Path(f'/proc/{process.pid}/status').read_text().splitlines():
        if line.startswith('SigCgt'):
            return int(line.split()[1], 16)
    return 0


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs /proc')
@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_every_tool_can_be_stopped_while_it_imports(tmp_path, tool, number):
    process = subprocess.Popen(
        [sys.executable, tool],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    deadline = time.monotonic() + 30
    # Python itself handles SIGINT from the start, and never SIGHUP
    while not caught(process) >> (signal.SIGHUP - 1) & 1:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (STATUS[number], '')
    assert err == f'{tool.name}: {TOLD[number]}\n'


def test_a_package_that_the_imports_of_a_tool_need_is_named(tmp_path):
    block = 'import sys\nsys.modules["PIL"] = None\n'
    (tmp_path / 'sitecustomize.py').write_text(block)
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'infer.py', '--help'],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith('infer.py: ') and 'PIL, which' in line and 'mmesbnn[deploy]' in line


def test_what_the_imports_of_a_tool_refuse_is_one_line():
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'count_ops.py', '--help'],
        env={**os.environ, 'MMESBNN_NATIVE': 'yes', 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "count_ops.py: MMESBNN_NATIVE='yes' in the environment must be 0 or 1"


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_every_tool_says_what_a_status_means(tool):
    assert tool.read_text().endswith("if __name__ == '__main__':\n    cli.run(main)\n")
