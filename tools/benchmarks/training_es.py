"""Time that expanding and shrinking adds to a training step.

    python tools/benchmarks/training_es.py [--out FILE] [--forms ...] [--size BATCHxPIXELS]

Trains BNext-T and ES-BNext-T (tau = 2) of ``tools/benchmarks/training.py`` on the CPU in float32,
step by step in turn in one process. A machine is slower for seconds at a time, which changes the
ratio of two rows that are measured one after another. Two steps that follow each other see the
same machine, so the median of their ratios is nearly free of it. Prints this median for elapsed
and for processor time, the ratio of the least seconds, and the seconds. Saves all of it in FILE,
if it is given. Exit status 0: done; 2: error.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
from speed.names import processor
from train_steps.contenders import NATIVE, OURS, RECOMPUTING, Training
from train_steps.measuring import measure
from train_steps.sizes import batch_and_pixels

import mmesbnn
from mmesbnn import native
from mmesbnn.analysis import save_json
from mmesbnn.whole_files import check_file

PLAIN, EXPANDED = 'BNext-T', 'ES-BNext-T'
FORMS = (OURS, RECOMPUTING, NATIVE, f'{RECOMPUTING}+{NATIVE}')


def ratio_of_steps(results: dict[str, dict[str, Any]], times: str) -> float:
    """Return the median of the ratios of steps that follow each other."""
    pairs = zip(results[EXPANDED][times], results[PLAIN][times], strict=True)
    return median(expanded / plain for expanded, plain in pairs)


def compare(form: str, size: tuple[int, int], steps: int) -> dict[str, Any]:
    """Train both networks in turn in one form."""
    batch, pixels = size
    trainings = {
        network: Training(network, form, torch.float32, pixels, batch, 'cpu')
        for network in (PLAIN, EXPANDED)
    }
    results = measure(trainings, steps)
    least = [results[network]['least_s'] for network in (EXPANDED, PLAIN)]
    return dict(
        form=form,
        ratio=ratio_of_steps(results, 'times_s'),
        ratio_of_processor_time=ratio_of_steps(results, 'processor_times_s'),
        ratio_of_least=least[0] / least[1],
        networks=results,
    )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=options.path, metavar='FILE', help='JSON file')
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS, default=FORMS, metavar='FORM', help=', '.join(FORMS)
    )
    parser.add_argument(
        '--size',
        type=batch_and_pixels,
        default=(4, 224),
        metavar='BATCHxPIXELS',
        help='below 64 pixels networks are narrow (4x224)',
    )
    parser.add_argument('--steps', type=options.count, default=20, help='timed per network (20)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.out:
        check_file(args.out)
    rows = []
    heads = ('ratio', 'CPU', 'least', f'{PLAIN}, s', f'{EXPANDED}, s')
    print(f'{"":<16}' + ''.join(f'{head:>15}' for head in heads))
    for form in args.forms:
        if NATIVE in form and not native.available():
            print(f'{form:<16}{"not available here":>25}')
            continue
        row = compare(form, args.size, args.steps)
        ratios = row['ratio'], row['ratio_of_processor_time'], row['ratio_of_least']
        seconds = (row['networks'][network]['least_s'] for network in (PLAIN, EXPANDED))
        print(f'{form:<16}' + ''.join(f'{x:>15.3f}' for x in (*ratios, *seconds)), flush=True)
        rows.append(row)
        if args.out:
            machine = dict(processor=processor(), threads=torch.get_num_threads())
            versions = dict(mmesbnn=mmesbnn.__version__, torch=torch.__version__)
            save_json(args.out, dict(size=args.size, **machine, **versions, rows=rows))


if __name__ == '__main__':
    cli.run(main)
