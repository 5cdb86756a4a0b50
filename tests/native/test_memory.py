import os
import threading

import numpy as np
import pytest
import torch

from mmesbnn.native import memory, release_memory
from mmesbnn.native.memory import empty

SHAPE = (2, 64, 32, 32)  # half a MB


def place(array):
    """Return the page at which an array begins."""
    return array.ctypes.data // 4096


@pytest.fixture(autouse=True)
def kept():
    release_memory()
    yield memory._memory
    release_memory()


def test_an_array_gets_the_memory_of_one_before():
    at = place(empty(SHAPE))

    assert place(empty(SHAPE)) == at


def test_an_array_of_another_kind_fits_into_memory_a_little_larger():
    at = place(empty(SHAPE))

    assert place(empty((2, 64, 32, 32), np.int16)) != at  # half of it
    assert place(empty((2, 65, 32, 64), np.int16)) == at


@pytest.mark.parametrize(
    'share',
    [
        lambda x: x[1:, ::2].transpose(0, 2, 3, 1),
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x).detach()[0].flatten(1),
        lambda x: torch.from_numpy(x).numpy(),
        lambda x: x.view(np.int32),
        lambda x: memoryview(x),
        np.from_dlpack,
    ],
)
def test_memory_is_lent_as_long_as_anything_shares_it(share):
    x = empty(SHAPE)
    x[:] = 7
    at, shared = place(x), share(x)
    del x

    other = empty(SHAPE)
    other[:] = 0
    assert place(other) != at
    assert np.asarray(shared).size and np.asarray(shared).astype(bool).all()
    del shared
    assert place(empty(SHAPE)) == at


def test_arrays_that_live_at_once_have_memory_of_their_own():
    arrays = [empty(SHAPE) for _ in range(5)]
    for number, array in enumerate(arrays):
        array[:] = number

    assert [array.min() for array in arrays] == [array.max() for array in arrays] == [*range(5)]


def test_arrays_begin_at_different_places_of_a_page():
    arrays = [empty(SHAPE) for _ in range(8)]

    begins = {array.ctypes.data % 4096 for array in arrays}
    assert len(begins) == 8
    assert all(begin % 64 == 0 for begin in begins)


def test_little_memory_is_not_kept(kept):
    assert empty((3, 5)).base is None
    assert kept.loans == 0


def test_at_most_twice_of_what_was_lent_is_kept(kept):
    most = 0
    for rows in range(8, 400, 24):  # each does not fit where the one before was
        most = max(most, empty((rows, 64, 32, 32)).nbytes)
        assert kept.lent + kept.kept <= 2.3 * most


def test_memory_that_is_used_no_more_is_freed(kept, monkeypatch):
    monkeypatch.setattr(memory, '_LATELY', 10)
    empty((64, 64, 32, 32))
    for _ in range(25):
        empty(SHAPE)

    assert kept.lent + kept.kept < 2 * empty(SHAPE).nbytes
    assert sum(map(len, kept.pieces.values())) + len(kept.returned) == 1


def test_a_thread_has_memory_of_its_own_and_loans_end_in_any():
    lent = [empty(SHAPE)]
    at, other = place(lent[0]), []

    def work():
        lent.clear()
        other.append(place(empty(SHAPE)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert other != [at]
    assert place(empty(SHAPE)) == at


def test_released_memory_is_not_kept(kept):
    x = empty(SHAPE)
    empty(SHAPE)
    release_memory()
    del x

    assert not kept.pieces and not kept.returned and kept.lent == kept.kept == 0


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')
def test_a_forked_process_writes_into_memory_of_its_own():
    x = empty(SHAPE)
    x[:] = 1
    child = os.fork()
    if child == 0:
        x[:] = 2
        os._exit(0)
    os.waitpid(child, 0)

    assert (x == 1).all()


def test_more_memory_than_there_is_raises_an_error():
    with pytest.raises(MemoryError):
        empty((2**50,))


def test_kept_memory_is_freed_where_new_memory_does_not_fit_beside_it(kept, monkeypatch):
    def allocate(size):
        if kept.kept:
            raise MemoryError
        return original(size)

    original = memory._allocate
    monkeypatch.setattr(memory, '_allocate', allocate)
    empty(SHAPE)

    assert empty((4, *SHAPE)).shape == (4, *SHAPE)
    assert kept.kept == 0
