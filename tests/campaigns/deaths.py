"""Kill trainings, resume them, and compare them with trainings that nobody killed."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import NamedTuple

import torch

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.resuming import read_pointer, why_not_whole

ROOT = Path(__file__).resolve().parents[2]
#: Seconds after which a training hangs.
LONGEST = 120


def server():
    """Return a context that forks its processes from one that has imported everything."""
    path = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = f'{ROOT}{os.pathsep}{path}' if path else str(ROOT)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['tests.campaigns.trainings'])
    return context


def train(*args, **kwargs):
    from tests.campaigns import trainings

    trainings.train(*args, **kwargs)


def write_data(task, root):
    from tests.campaigns import trainings

    trainings.write_data(task, root)


class Setting(NamedTuple):
    """A kind of training: the task and the number of processes."""

    task: str
    world: int

    def __str__(self):
        return f'{self.task}, {self.world} process{"es" if self.world > 1 else ""}'


class Run(NamedTuple):
    """The result of a run of a training.

    Attributes:
        finished: Whether it came to its end.
        seconds: How long it took.
        logs: Paths of the processes' outputs.
    """

    finished: bool
    seconds: float
    logs: list[Path]

    @property
    def log(self):
        """Of the first process."""
        return self.logs[0]

    @property
    def output(self):
        """Return the ends of all outputs, for the message of a failure."""
        return '\n'.join(log.read_text()[-2000:] for log in self.logs)

    @property
    def started(self):
        """Return the first iteration, or None if no iteration began."""
        path = Path(f'{self.log}.started')
        text = path.read_text() if path.exists() else ''  # empty: killed before it was written
        return int(text) if text else None


class Trainings:
    """Trainings of one setting, and the one that nobody kills.

    Args:
        context: From :func:`server`.
        setting: Task and number of processes.
        root: Folder for all of them.
        options: For ``trainings.config``.
    """

    def __init__(self, context, setting, root, **options):
        self.context, self.setting, self.root = context, setting, Path(root)
        self.options, self.runs, self._whole = options, 0, None
        self.root.mkdir(parents=True)
        self.data = self.root / 'data'
        self._call(write_data, setting.task, self.data).join()

    def _call(self, function, *args, **kwargs):
        process = self.context.Process(target=function, args=args, kwargs=kwargs)
        process.start()
        return process

    def run(self, work_dir, resume=False, kill_at=None, victim=0, **disk):
        """Train until the end, or until a process gets SIGKILL; all die then.

        Args:
            work_dir: Folder to work in.
            resume: Whether to resume.
            kill_at: Seconds after which process ``victim`` is killed.
            victim: The process that dies first.
            disk: ``delay`` and ``dies_after`` of the ``SlowDisk`` of process 0.
        """
        self.runs += 1
        world = self.setting.world
        store = self.root / f'store_{self.runs}'
        logs = [self.root / f'{self.runs}_{rank}.log' for rank in range(world)]
        start = time.monotonic()
        processes = [
            self._call(
                train,
                self.setting.task,
                self.data,
                work_dir,
                logs[rank],
                resume=resume,
                rank=rank,
                world=world,
                store=store,
                **disk,
                **self.options,
            )
            for rank in range(world)
        ]
        try:
            self._wait(processes, start, kill_at, victim)
        finally:
            for process in processes:
                process.kill()
                process.join()
        finished = all(process.exitcode == 0 for process in processes)
        return Run(finished, time.monotonic() - start, logs)

    def _wait(self, processes, start, kill_at, victim):
        """Wait until all processes end or one dies; kill one at the given time."""
        while any(process.is_alive() for process in processes):
            if any(process.exitcode not in (None, 0) for process in processes):
                time.sleep(0.05)  # the other processes may notice it before they die
                return
            passed = time.monotonic() - start
            if kill_at is not None and passed >= kill_at:
                processes[victim].kill()
                kill_at = None
            assert passed < LONGEST, f'a training hangs: {self.setting}'
            time.sleep(0.002)

    @property
    def whole(self):
        """Return work dir, run and disk steps of the training that nobody kills."""
        if self._whole is None:
            work_dir = self.root / 'whole'
            run = self.run(work_dir)
            assert run.finished, run.output
            self._whole = work_dir, run
        return self._whole

    def killed(self, name, kills):
        """Kill a training once for each entry of ``kills``, resume it and check it.

        Args:
            name: Of the work dir.
            kills: Arguments of :meth:`run`, for every run but the last one.

        Raises:
            AssertionError: If anything is lost.
        """
        work_dir = self.root / name
        expected, resume = 0, False
        for kill in [*kills, {}]:
            run = self.run(work_dir, resume=resume, **kill)
            if run.started is not None or not kill:
                assert run.finished or kill, run.output
                assert run.started >= expected, (
                    f'resumed at {run.started}, though {expected} had been saved'
                )
            expected, resume = max(expected, saved(work_dir)), True
            if run.finished:
                break
        compare(self.whole[0], work_dir)


def saved(work_dir):
    """Return the iteration of the last checkpoint, or 0 if there is none."""
    path = read_pointer(work_dir)
    if path is None:
        return 0
    assert why_not_whole(path) is None, f'{path} is torn: {why_not_whole(path)}'
    return read_checkpoint(path)['meta']['iter']


def leaves(value, name=''):
    """Yield all values in nested dicts and lists with their places."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from leaves(child, f'{name}/{key}')
    else:
        yield name, value


def content(path):
    """Return the values of a checkpoint that do not depend on times and paths."""
    checkpoint = read_checkpoint(path)
    hub = checkpoint.pop('message_hub')
    meta = checkpoint.pop('meta')
    for kind in ('epoch', 'iter', 'seed'):
        checkpoint[kind] = meta[kind]
    checkpoint['history'] = {
        name: list(buffer.data[0])
        for name, buffer in hub['log_scalars'].items()
        if 'time' not in name and 'memory' not in name
    }
    checkpoint['books'] = {
        # without the work dir's name
        name: value if isinstance(value, list) else os.path.basename(str(value))
        for name, value in hub['runtime_info'].items()
        if name.startswith(('best', 'last', 'keep', 'outdated'))
    }
    return dict(leaves(checkpoint))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b or (a != a and b != b))


def compare(whole, killed):
    """Check that two work dirs hold the same checkpoints, bit for bit."""
    files = [
        sorted(p.name for p in folder.iterdir() if p.suffix in ('.pth', '.part'))
        for folder in (whole, killed)
    ]
    assert files[0] == files[1], f'files {files[1]} instead of {files[0]}'
    assert read_pointer(killed).name == read_pointer(whole).name
    for name in files[0]:
        expected, got = content(whole / name), content(killed / name)
        assert expected.keys() == got.keys(), expected.keys() ^ got.keys()
        other = [key for key in expected if not same(expected[key], got[key])]
        assert not other, f'{name} has other values: {other[:5]}'
