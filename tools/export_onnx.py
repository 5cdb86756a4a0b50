"""Export a trained network to ONNX, for other engines, or to QONNX, for FPGAs.

    python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx [--shape H W] [--form qonnx]
    python tools/export_onnx.py PACKED.safetensors OUT.onnx [--form qonnx]

With the form onnx, the file contains plain float operators; binary weights are constants -a
and +a. With the form qonnx, signs and binary weights are BipolarQuant nodes, and all shapes
are fixed. Before the file is written, the outputs of ONNX Runtime, or of the package qonnx,
are compared with torch's on test images of the config, or on bundled photographs if the
config has none, or on random noise if neither scikit-image nor scikit-learn is installed.
Exit status 0: the file is written; 2: it is not written, and the message says why.
"""

import argparse
import warnings
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.deploy.onnx import export_onnx
from mmesbnn.deploy.qonnx import export_qonnx
from mmesbnn.deploy.tasks.make import make_task
from mmesbnn.deploy.tasks.trained import load_trained
from mmesbnn.whole_files import check_file


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'files',
        type=options.name,
        nargs='+',
        metavar='FILE',
        help='config and checkpoint, or packed file',
    )
    parser.add_argument('out', type=options.name, metavar='OUT.onnx', help='the file to write')
    parser.add_argument(
        '--shape',
        type=options.pixels,
        nargs=2,
        metavar=('H', 'W'),
        help="height and width of the images (default: the config's)",
    )
    parser.add_argument(
        '--form',
        choices=['onnx', 'qonnx'],
        default='onnx',
        help='plain ONNX, or QONNX with quantizers (default: onnx)',
    )
    parser.add_argument('--fixed-batch', action='store_true', help='allow one image at a time only')
    parser.add_argument(
        '--images',
        type=options.count,
        default=4,
        metavar='N',
        help='number of images for the comparison (default: 4)',
    )
    cli.add_cfg_options(parser)
    cli.add_trust(parser)
    cli.add_max_bytes(parser)
    args = parser.parse_args()
    packed = args.files[0].endswith('.safetensors')
    if len(args.files) != (1 if packed else 2):
        parser.error('give a config and a checkpoint, or a packed file, and OUT.onnx')
    if args.form == 'qonnx' and args.fixed_batch:
        parser.error('--fixed-batch is for --form onnx: QONNX always has a batch of one image')
    return args


def main() -> None:
    warnings.simplefilter('ignore')
    args = parse_args()
    check_file(args.out, *args.files)
    path, checkpoint = args.files if len(args.files) == 2 else (args.files[0], None)
    cfg, model, meta = load_trained(
        path,
        checkpoint,
        options=args.cfg_options,
        trust_stored_config=args.trust_stored_config,
        max_bytes=args.max_bytes,
    )
    task = make_task(cfg, model, size=args.shape, count=args.images, dataset_meta=meta)
    examples = [task.example(i) for i in range(len(task.images))]
    names = dict(input_names=task.input_names, output_names=task.output_names)
    counts = []
    if args.form == 'qonnx':
        report = export_qonnx(task.graph, args.out, examples, **names)
        agreements = report.agreements
        counts = [
            f'{count} multiplications {types}' for types, count in report.multiplications.items()
        ]
    else:
        agreements = export_onnx(
            task.graph, args.out, examples, **names, dynamic_batch=not args.fixed_batch
        )
    print(f'compared with torch on {len(examples)} {task.source}:')
    for line in (*agreements, *counts):
        print(f'  {line}')
    for remark in task.remarks:
        print(remark)
    print(f'wrote {args.out} ({Path(args.out).stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    cli.run(main)
