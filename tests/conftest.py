"""Every test starts with one thread, one seed and no display."""

import os

# Before torch is imported, because pytest-xdist runs one worker per core.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
# On processors that are not Intel's, products by MKL otherwise depend on where arrays begin, and
# two equal runs differ in the last bit.
os.environ.setdefault('MKL_CBWR', 'COMPATIBLE')

import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.managers import forget_runners

# A shell ignores these signals for background jobs, and tools started by tests would inherit that.
for _name, _handler in (('SIGINT', signal.default_int_handler), ('SIGHUP', signal.SIG_DFL)):
    if hasattr(signal, _name) and signal.getsignal(getattr(signal, _name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, _name), _handler)

torch.set_num_threads(1)

# Without a database hypothesis writes nothing into the directory it is run from. Its
# examples follow from each test's source, so that a run says the same everywhere;
# --hypothesis-profile=wide draws others, and --hypothesis-seed=7 yet others.
settings.register_profile(
    'mmesbnn', deadline=None, max_examples=30, database=None, derandomize=True
)
settings.register_profile('wide', deadline=None, max_examples=300, database=None, print_blob=True)
settings.load_profile('mmesbnn')


def pytest_addoption(parser):
    parser.addoption(
        '--gpu', action='store_true', help='do not hide GPUs: for tests/e2e/test_cuda.py'
    )
    group = parser.getgroup('campaigns', 'attacks at random, see tests/campaigns')
    group.addoption('--campaign-seed', type=int, default=0, help='other cases (0)')
    group.addoption(
        '--campaign-seconds',
        type=float,
        default=0.0,
        help='how long each campaign draws on after its usual number of cases (0)',
    )
    group.addoption('--campaign-report', metavar='FILE', help='write the counts here')


def pytest_configure(config):
    """Hide GPUs, onto which mmengine would move the networks that tests compare."""
    if not config.getoption('--gpu'):
        os.environ['CUDA_VISIBLE_DEVICES'] = ''


@pytest.fixture(autouse=True)
def seed():
    """Seed every generator and return the seed."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture
def no_graphs():
    """Forget what ``torch.compile`` compiled for other tests."""
    from mmesbnn.models.backbones import stages

    torch._dynamo.reset()
    stages._compiled.cache_clear()


@pytest.fixture(autouse=True)
def no_runners(monkeypatch):
    """Remove the default scope and the loggers that other tests left behind."""
    forget_runners(monkeypatch)
