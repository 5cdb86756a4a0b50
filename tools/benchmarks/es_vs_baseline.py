"""Compare ES forms of binary networks to their baseline at equal operations.

    python tools/benchmarks/es_vs_baseline.py --preset cpu --jobs 2

Trains networks of the product on random crops of bundled photographs: which of 100
regions a crop comes from (``regions``), or what it is without noise (``denoising``).
Crops hardly ever come twice, so that under-fitting limits, as it does on large data.
Prints Markdown tables and draws gains, paired by seed, with Student's intervals
corrected for the number of forms.

Every training is a line of DIR/NAME.jsonl and is never done twice: the same command goes
on where it stopped. Presets say how long they take; --minutes ends in time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
from es.drawing import draw
from es.presets import PRESETS, Training
from es.records import Records
from es.summary import summarise, table
from es.training import check_costs, train
from es.workers import submit, workers
from mmengine.logging import MMLogger

from mmesbnn.whole_files import check_place


class Clock:
    """The time that trainings took, and the time that is left.

    Args:
        minutes: How long the command may run.
    """

    def __init__(self, minutes: float) -> None:
        self.start, self.limit, self.longest = time.monotonic(), 60 * minutes, 0.0

    def ends_in_time(self) -> bool:
        """Return whether a training would end in time, if it is as long as the longest."""
        return time.monotonic() - self.start + 1.1 * self.longest < self.limit

    def note(self, record: dict[str, Any]) -> dict[str, Any]:
        """Remember how long a training took."""
        self.longest = max(self.longest, record['seconds'])
        return record


def prepare() -> None:
    """Set up a process that trains: a core each, and no chatter."""
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine', log_level='WARNING')


def trained(todo: list[Training], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train while there is time; yield the records as they come."""
    clock = Clock(args.minutes)
    if args.jobs == 1:
        for training in todo:
            if clock.ends_in_time():
                yield clock.note(train(*training, args.device))
        return
    with workers(args.jobs, prepare) as pool:
        running, left = set(), list(todo)
        while running or (left and clock.ends_in_time()):
            while left and len(running) < args.jobs and clock.ends_in_time():
                running.add(submit(pool, train, *left.pop(0), args.device))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield clock.note(future.result())


def run(args: argparse.Namespace, records: Records) -> None:
    """Train what the preset has and the records have not."""
    studies = PRESETS[args.preset].studies
    for study in studies:
        check_costs(study.setting, study.forms)
    wanted = dict.fromkeys(x for study in studies for x in study.trainings())
    todo = [x for x in wanted if records.get(*x) is None]
    for i, record in enumerate(trained(todo, args), 1):
        records.add(record)
        print(
            f'{i} of {len(todo)}: {record["family"]} {record["task"]} {record["form"]} seed '
            f'{record["seed"]}: loss {record["fit"]["loss"]:.4f}, {record["seconds"]:.0f} s',
            flush=True,
        )
    left = sum(records.get(*x) is None for x in todo)
    if left:
        print(f'{left} trainings are left: the same command goes on')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        '--preset',
        choices=PRESETS,
        default='cpu',
        help='; '.join(f'{name}: {preset.says}' for name, preset in PRESETS.items()),
    )
    add('--jobs', type=options.count, default=1, help='trainings at once; on one GPU, too')
    add('--minutes', type=options.positive, default=1e6, help='start nothing that ends later')
    add('--device', type=options.name, default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--summary', action='store_true', help='train nothing, show what is there')
    add('--out', type=options.path, default=Path('work_dirs/es_vs_baseline'), metavar='DIR/NAME')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    check_place(args.out.parent)
    prepare()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    records = Records(args.out.with_name(f'{args.out.name}.jsonl'))
    if not args.summary:
        run(args, records)
    rows = summarise(records)
    print(table(rows))
    if any(row.gains for row in rows):
        draw(rows, args.out.with_name(f'{args.out.name}.png'))


if __name__ == '__main__':
    cli.run(main)
