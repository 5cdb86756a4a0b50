"""One thread, one seed, no display: what every test starts from."""

import os

# Before torch is imported: with pytest-xdist every core runs a worker of its own.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.managers import forget_runners

torch.set_num_threads(1)

# Without a database hypothesis writes nothing into the directory it is run from.
settings.register_profile('mmesbnn', deadline=None, max_examples=30, database=None)
settings.load_profile('mmesbnn')


@pytest.fixture(autouse=True)
def seed():
    """Seed every generator; the fixture's value is the seed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(autouse=True)
def no_runners(monkeypatch):
    """No default scope and no logger of a runner that another test has left behind."""
    forget_runners(monkeypatch)
