"""A disk on which every step takes time, so that a process can die between two steps."""

import builtins
import io
import os
import signal
import time

#: Parts in which a file's content reaches the disk.
PARTS = 3


class SlowFile:
    """Write a file's content in parts, with a step after each."""

    def __init__(self, file, step):
        self.file, self.step = file, step

    def write(self, data):
        size = -(-len(data) // PARTS)
        for start in range(0, len(data), size or 1):
            self.file.write(data[start : start + size])
            self.file.flush()
            self.step()
        return len(data)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self.file, name)


class SlowDisk:
    """Counts the steps in which this process changes checkpoints, and ends it in one.

    A step follows the opening of a file, every part of its content, and every flush,
    renaming and removal.

    Args:
        folder: Where the checkpoints are.
        delay: Seconds that every step takes.
        dies_after: Number of the step after which the process gets SIGKILL.
    """

    def __init__(self, folder, delay=0, dies_after=None):
        self.folder, self.delay, self.dies_after = str(folder), delay, dies_after
        self.steps = 0

    def step(self):
        self.steps += 1
        time.sleep(self.delay)
        if self.steps == self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def concerns(self, path):
        if not isinstance(path, (str, os.PathLike)):
            return False
        name = os.path.basename(path)
        inside = os.path.abspath(path).startswith(self.folder)
        return inside and any(p in name for p in ('.pth', 'last_checkpoint', '.part'))

    def install(self):
        """Install the slow disk in this process permanently."""
        plain = builtins.open

        def slow_open(file, mode='r', *args, **kwargs):
            opened = plain(file, mode, *args, **kwargs)
            if set(mode) & set('wxa+') and self.concerns(file):
                self.step()
                return SlowFile(opened, self.step)
            return opened

        builtins.open = io.open = slow_open
        for name in ('replace', 'rename', 'unlink', 'remove'):
            setattr(os, name, self._followed_by_step(getattr(os, name)))
        os.fsync = self._followed_by_step(os.fsync, always=True)

    def _followed_by_step(self, function, always=False):
        def followed(path, *args, **kwargs):
            result = function(path, *args, **kwargs)
            if always or self.concerns(path):
                self.step()
            return result

        return followed
