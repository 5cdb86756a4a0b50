"""Attacks with random draws; they have a seed, a time limit and a count.

A campaign's test takes the fixture ``campaign``:

    def test_damaged_files(campaign):
        for rng in campaign.draws(least=20):
            with campaign.attempt('a cut file'):
                ...  # an assertion here counts as a bad case

``pytest tests/campaigns`` tries these numbers of cases, the same ones in every run, in
one to three minutes in all. ``--campaign-seconds 600`` lets each test draw on for ten minutes,
``--campaign-seed 7`` draws other cases, and ``--campaign-report FILE`` writes how many
were tried and how many went wrong.
"""

import contextlib
import json
import random
import time
from collections import Counter
from pathlib import Path


class Campaign:
    """Cases of one campaign.

    Args:
        name: Its name, which the drawn cases depend on.
        seed: Seed of the draws.
        seconds: How long it may draw after the least number of cases.
    """

    def __init__(self, name, seed, seconds):
        self.name, self.seed, self.seconds = name, seed, seconds
        self.tried, self.failed, self.failures = Counter(), Counter(), []

    def draws(self, least, most=None):
        """Yield a ``random.Random`` for each case, the same ones for the same seed."""
        end, index = time.monotonic() + self.seconds, 0
        while index < least or time.monotonic() < end:
            if most is not None and index >= most:
                return
            yield random.Random(f'{self.name}:{self.seed}:{index}')
            index += 1

    @contextlib.contextmanager
    def attempt(self, kind):
        """Count a case; continue after a failed one, so that all cases run."""
        self.tried[kind] += 1
        try:
            yield
        except Exception as error:
            self.failed[kind] += 1
            if len(self.failures) < 20:
                self.failures.append(f'{kind}: {type(error).__name__}: {error}'[:2000])

    def finish(self):
        """Fail if any case failed."""
        assert not self.failures, (
            f'{sum(self.failed.values())} of {sum(self.tried.values())} cases of '
            f'{self.name} (seed {self.seed}) went wrong:\n' + '\n'.join(self.failures)
        )

    def report(self, path):
        """Add the counts to a JSON file."""
        path = Path(path)
        content = json.loads(path.read_text()) if path.exists() else {}
        content[self.name] = {
            'seed': self.seed,
            'tried': sum(self.tried.values()),
            'bad': sum(self.failed.values()),
            'kinds': {kind: [n, self.failed[kind]] for kind, n in self.tried.items()},
        }
        path.write_text(json.dumps(content, indent=1))
