"""Train a super-resolution model.

    python tools/train_sr.py CONFIG [--work-dir DIR] [--resume] [--launcher pytorch]

Checkpoints, logs and validation figures go to the work dir. --resume continues after the
last complete checkpoint there; the result equals that of an uninterrupted training. Exit
status 0: done; 2: it failed; 130 and 143: stopped by Ctrl-C and SIGTERM.
"""

import argparse
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmengine.runner import Runner

from mmesbnn.analysis import explained, load_config
from mmesbnn.whole_files import check_place


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config file')
    parser.add_argument(
        '--work-dir',
        type=options.name,
        metavar='DIR',
        help='default: the work_dir of the config, else work_dirs/NAME OF THE CONFIG',
    )
    parser.add_argument('--resume', action='store_true', help='continue after the last checkpoint')
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='launcher of a distributed training',
    )
    cli.add_cfg_options(parser, 'model.unet.tau=4')
    return parser.parse_args()


def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    default = cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    cfg.work_dir = args.work_dir or default
    check_place(cfg.work_dir)
    cfg.launcher = args.launcher
    if args.resume:
        cfg.resume = True
        cfg.load_from = None  # mmengine would resume it instead of the last checkpoint
    with explained('cannot start the training'):
        runner = Runner.from_cfg(cfg)
        # reads the data folders
        runner.train_loop, runner.val_loop  # noqa: B018
    runner.train()


if __name__ == '__main__':
    cli.run(main)
