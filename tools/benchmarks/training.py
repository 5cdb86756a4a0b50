"""Time and memory of training steps: our networks against the published style.

    python tools/benchmarks/training.py [--out DIR] [--networks ...] [--sizes ...] [--forms ...]

A step is forward pass, cross-entropy of 1000 classes, backward pass, AdamW and the clamping of
bounded parameters. The forms of a network run in turn in one process: as the published code
computes it, ours, ours on the native kernels, with recomputation (`with_cp`) and channels last,
each of them eager, compiled as a whole or block by block, and on a GPU also recorded as a CUDA
graph (the mode `reduce-overhead` of `torch.compile`), in float32 and under bfloat16 autocast. A
real-valued ResNet-18 stands beside them. For every form the script prints the least and the
median seconds of a step, the least seconds of processor time, in which waiting for other
processes does not count, images per second, the bytes that the forward pass saves for the
backward pass, the rise of the process's memory in a step, and the seconds of the first step, in
which a compiled form is compiled. Saves DIR/training.json, and DIR/cpu_4x224.png and so on,
after every row; rows of other settings that are there already stay, so a long benchmark can be
run in pieces.

--avx2 saves DIR/training-avx2.json and DIR/cpu_4x224-avx2.png instead, without compiled forms. The
native kernels, torch and its libraries then use AVX2 only.

On a machine that is busy with other work only processor time and the ratios mean something.
``faster`` compares processor time on a CPU, and seconds on a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
from speed.names import NATIVE as NATIVE_FORM
from speed.names import check_avx2, native_forms, processor, use_avx2_only
from train_steps.contenders import (
    BLOCKS,
    COMPILED,
    DTYPES,
    FORMS,
    NATIVE,
    NETWORKS,
    PUBLISHED,
    REAL,
    RECOMPUTING,
    RECORDED,
    Training,
)
from train_steps.drawing import draw_all
from train_steps.measuring import measure
from train_steps.rows import key_of, saved_rows, table
from train_steps.sizes import batch_and_pixels

import mmesbnn
from mmesbnn import native
from mmesbnn.analysis import save_json


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=options.path, default=Path('work_dirs/training_speed'))
    parser.add_argument('--networks', nargs='+', choices=NETWORKS, default=NETWORKS)
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=batch_and_pixels,
        metavar='BATCHxPIXELS',
        default=[(4, 224), (32, 224), (32, 32)],
        help='below 64 pixels networks are narrow (4x224 32x224 32x32)',
    )
    parser.add_argument(
        '--forms', nargs='+', choices=FORMS, default=FORMS, metavar='FORM', help=', '.join(FORMS)
    )
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=list(DTYPES))
    parser.add_argument('--steps', type=options.count, default=5, help='timed per form (5)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument(
        '--avx2',
        action='store_true',
        help='AVX2 only, without compiled forms, which have no switch for it; saves '
        'training-avx2.json',
    )
    args = parser.parse_args()
    check_avx2(parser, args)
    return args


def _forms(network: str, args: argparse.Namespace) -> Iterator[str]:
    """The forms that a network has: a real one has no signs, and nothing to recompute."""
    binary_only = (RECOMPUTING, PUBLISHED, NATIVE, BLOCKS)
    unsuited = [RECORDED] if args.device == 'cpu' else [NATIVE]
    if args.avx2:
        unsuited += [COMPILED, BLOCKS]
    if not native.available():
        unsuited.append(NATIVE)
    for form in args.forms:
        binary = any(word in form for word in binary_only)
        if (network != REAL or not binary) and not any(word in form for word in unsuited):
            yield form


def main() -> None:
    args = parse_args()
    if args.avx2:
        use_avx2_only()
        if native.available():
            native.use_instruction_set(native_forms(avx2=True)[NATIVE_FORM])
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'training{"-avx2" * args.avx2}.json'
    machine = dict(
        device=args.device,
        avx2_only=args.avx2,
        processor=torch.cuda.get_device_name() if args.device == 'cuda' else processor(),
        threads=torch.get_num_threads(),
        mmesbnn=mmesbnn.__version__,
        torch=torch.__version__,
    )
    rows = saved_rows(path)
    for batch, size in args.sizes:
        for network in args.networks:
            for dtype in args.dtypes:
                torch._dynamo.reset()
                trainings = {
                    form: Training(network, form, DTYPES[dtype], size, batch, args.device)
                    for form in _forms(network, args)
                }
                results = measure(trainings, args.steps)
                row = dict(network=network, batch=batch, size=size, dtype=dtype, **machine)
                row['forms'] = results
                rows[key_of(row)] = row
                print(table(row), flush=True)
                save_json(path, dict(rows=list(rows.values())))
                draw_all(list(rows.values()), args.out, '-avx2' * args.avx2)
    print(f'\nwrote {path} and pictures beside it')


if __name__ == '__main__':
    cli.run(main)
