"""Processes that train: they end with the process that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from typing import Any


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _start(prepare: Callable[[], None]) -> None:
    # a parent that is killed cannot end its workers, which would wait for work for ever
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Start processes that do not hear the signals which a terminal sends to all processes.

    This process hears them, ends the others, and alone says why.
    """
    if not hasattr(signal, 'pthread_sigmask'):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def workers(count: int, prepare: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Yield processes for work. If the block fails, their work is not waited for.

    Args:
        count: Number of processes.
        prepare: Called first in each of them.

    Raises:
        ChildProcessError: If one of them was killed.
    """
    with _deaf():  # it starts one that counts semaphores
        pool = ProcessPoolExecutor(count, get_context('spawn'), _start, (prepare,))
    with pool:
        try:
            yield pool
        except BaseException as error:  # also a signal
            for process in active_children():
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ChildProcessError(
                    'a process that trains was killed: is the memory too small for --jobs?'
                ) from error
            raise


def submit(pool: ProcessPoolExecutor, work: Callable[..., Any], *args: Any) -> Future:
    """Give work to ``pool``, which may start a process for it."""
    with _deaf():
        return pool.submit(work, *args)
