"""Test a super-resolution model, and write its images or its pipeline.

    python tools/test_sr.py CONFIG CHECKPOINT [--out DIR] [--export DIR]

Prints PSNR and SSIM of every image set, computed by the config's test_evaluator. --out
writes the images as PNGs. --export writes the pipeline as a folder for tools/upscale.py and
SRDiffusionPipeline.from_pretrained; with --no-test this needs no test data. An existing
pipeline folder is replaced. In a distributed test one process writes it. Exit status 0:
done; 2: it failed.
"""

import argparse
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmesbnn.analysis import build_model, explained, load_config, load_weights
from mmesbnn.diffusion.saving import check_pipeline_folder, save_pipeline
from mmesbnn.engine.reach import unwrapped
from mmesbnn.whole_files import check_place


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config file')
    parser.add_argument('checkpoint', type=options.name, help='checkpoint from tools/train_sr.py')
    parser.add_argument('--out', type=options.name, metavar='DIR', help='folder for the images')
    parser.add_argument(
        '--export', type=options.name, metavar='DIR', help='folder for the pipeline'
    )
    parser.add_argument('--no-test', action='store_true', help='export without a test')
    parser.add_argument(
        '--work-dir', type=options.name, metavar='DIR', help='default: work_dirs/NAME OF THE CONFIG'
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='launcher of a distributed test',
    )
    cli.add_cfg_options(parser, 'model.sampling.num_inference_steps=10')
    cli.add_max_bytes(parser)
    args = parser.parse_args()
    if args.no_test and not args.export:
        parser.error('--no-test without --export leaves nothing to do')
    if args.no_test:
        for name, value in (
            ('--out', args.out),
            ('--work-dir', args.work_dir),
            ('--launcher', args.launcher != 'none'),
        ):
            if value:
                parser.error(f'{name} is for a test: give it without --no-test')
    return args


def export(model, folder):
    save_pipeline(model.eval().to_pipeline(), folder)
    print(f'wrote {folder}')


def main():
    args = parse_args()
    if args.export:
        check_pipeline_folder(args.export, args.config, args.checkpoint)
    for folder in filter(None, (args.out, args.work_dir)):
        check_place(folder)
    cfg = load_config(args.config, args.cfg_options)
    cfg.work_dir = args.work_dir or f'work_dirs/{Path(args.config).stem}'
    cfg.launcher = args.launcher
    model = build_model(cfg)
    load_weights(model, args.checkpoint, args.max_bytes)
    if args.no_test:
        export(model, args.export)
        return
    if args.out:
        save = dict(type='SaveImagesHook', out_dir=args.out)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), save]
    cfg.load_from = None
    with explained('cannot start the test'):
        runner = Runner.from_cfg(cfg)
        unwrapped(runner.model).load_state_dict(model.state_dict())
        runner.test_loop  # noqa: B018  (reads the data folders)
    if args.export and is_main_process():  # known only after the runner has been built
        export(model, args.export)
    runner.test()


if __name__ == '__main__':
    cli.run(main)
