"""Share of the convolutions in a training step, and the limit that follows from it.

    python tools/benchmarks/training_shares.py [--networks ...] [--dtypes ...]

Profiles training steps of ``tools/benchmarks/training.py``, four images of 224x224 on the CPU, in
the published style and in ours. Prints the seconds of convolutions (and products of matrices), of
batch norms and of everything else, least of the steps. Convolutions are the same in both styles.
So no style can be faster than the published one by more than ``limit``: its seconds over those of
its convolutions. The script writes no file. Exit status 0: done; 2: error.
"""

from __future__ import annotations

import argparse

from mmesbnn import cli, options  # before what takes time to import

# isort: split

from torch.profiler import ProfilerActivity, profile
from train_steps.contenders import DTYPES, OURS, PUBLISHED, WIDE, Training

#: Parts of the names of operators, by kind; the first that fits counts.
KINDS = {
    'convolutions': ('convolution', 'conv2d', '::mm', '::addmm', '::bmm'),
    'norms': ('batch_norm',),
    'others': ('',),
}


def seconds_by_kind(training: Training) -> dict[str, float]:
    """Profile one step and sum the seconds of its operators."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        training.step()
    found = dict.fromkeys(KINDS, 0.0)
    for row in profiler.key_averages():
        kind = next(k for k, parts in KINDS.items() if any(part in row.key for part in parts))
        found[kind] += row.self_cpu_time_total / 1e6
    return found


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--networks', nargs='+', choices=WIDE, default=list(WIDE))
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
    parser.add_argument('--steps', type=options.count, default=3, help='profiled per form (3)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    print(f'{"":<34}' + ''.join(f'{f"{kind}, s":>17}' for kind in KINDS) + f'{"limit":>8}')
    for network in args.networks:
        for dtype in args.dtypes:
            for form in (PUBLISHED, OURS):
                training = Training(network, form, DTYPES[dtype], 224, 4, 'cpu')
                training.step()
                steps = [seconds_by_kind(training) for _ in range(args.steps)]
                least = min(steps, key=lambda step: sum(step.values()))
                limit = sum(least.values()) / least['convolutions']
                print(
                    f'{network:<12}{dtype:<10}{form:<12}'
                    + ''.join(f'{seconds:>17.3f}' for seconds in least.values())
                    + (f'{limit:>8.2f}' if form == PUBLISHED else ''),
                    flush=True,
                )


if __name__ == '__main__':
    cli.run(main)
