"""Pickles made to do harm are refused with one sentence, and the process lives."""

import pytest

from tests.checkpoints.hostile import hostile
from tests.checkpoints.pickles import archive
from tests.checkpoints.readers import Reader


@pytest.fixture(scope='module')
def reader():
    with Reader('mmesbnn.checkpoints.read_checkpoint') as reader:
        yield reader


@pytest.mark.parametrize('case', hostile())
def test_hostile_pickles_are_refused(tmp_path, reader, case):
    path = archive(tmp_path / 'a.pth', hostile()[case])
    assert 'refused' in reader(path), reader(path)
