"""A training that dies at any moment loses nothing and ends with the same numbers.

By default a few deaths in all; ``--campaign-seconds`` adds more.
"""

import itertools
import json
import shutil

import pytest
import torch

from tests.campaigns.deaths import Setting, Trainings, server

pytest.importorskip('mmpretrain')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

pytestmark = pytest.mark.slow

WORLDS = (1, 2) if torch.distributed.is_gloo_available() else (1,)
SETTINGS = [
    Setting(task, world)
    for world in WORLDS
    for task in ('classification', 'detection', 'super_resolution')
]


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    """Return the trainings of a setting; make them on the first request."""
    root, context, made = tmp_path_factory.mktemp('kills'), server(), {}

    def of(setting):
        if setting not in made:
            made[setting] = Trainings(context, setting, root / str(len(made)))
        return made[setting]

    return of


def attack(campaign, trainings, draw_kills, kind):
    """Kill trainings of all settings in turn, at the times of ``draw_kills``."""
    settings = itertools.cycle(SETTINGS)
    for number, rng in enumerate(campaign.draws(least=1)):
        group = trainings(next(settings))
        group.whole  # noqa: B018  (trains, outside of the attempt)
        with campaign.attempt(f'{kind}: {group.setting}'):
            name = f'{kind}_{number}'
            kills = draw_kills(rng, group)
            try:
                group.killed(name, kills)
            except AssertionError as error:
                raise AssertionError(f'{error} (killed: {kills})') from None
            shutil.rmtree(group.root / name)


def test_deaths_at_any_time(campaign, trainings):
    def kills(rng, group):
        seconds = group.whole[1].seconds
        return [
            dict(
                kill_at=rng.uniform(0.2, 1) * seconds,
                victim=rng.randrange(group.setting.world),
                delay=rng.choice([0, 0.02]),
            )
            for _ in range(rng.randint(1, 2))
        ]

    attack(campaign, trainings, kills, 'random')


def test_deaths_while_a_slow_disk_writes(campaign, trainings):
    def kills(rng, group):
        log = group.whole[1].log
        steps = json.loads(log.with_name(f'{log.name}.done').read_text())['steps']
        return [
            dict(dies_after=rng.randint(1, max(1, steps // part)))
            for part in range(1, rng.randint(2, 3))
        ]

    attack(campaign, trainings, kills, 'aimed')
