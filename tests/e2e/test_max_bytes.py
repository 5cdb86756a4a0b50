"""``--max-bytes`` as a user gives it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.mark.parametrize('limit, words', [('10', 'more than 10 bytes'), ('-1', '-1')])
def test_a_limit_is_kept(tmp_path, limit, words):
    torch.save({'w': torch.ones(1)}, tmp_path / 'a.pth')
    done = subprocess.run(
        [
            sys.executable,
            TOOLS / 'convert_checkpoint.py',
            tmp_path / 'a.pth',
            tmp_path / 'b.pth',
            '--max-bytes',
            limit,
        ],
        capture_output=True,
        text=True,
    )
    # argparse puts its usage, of any number of lines, before the sentence.
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
