"""Export a trained network to OpenVINO and to the native library, binary layers as bits.

    python tools/export.py CONFIG CHECKPOINT --out DIR
    python tools/export.py PACKED.safetensors --out DIR

Writes model.xml, model.bin, manifest.json and report.json to DIR, and model.native, the form
for mmesbnn.native: a whole classifier, or the backbone of a detector with its neck and heads in
head.xml and head.bin. tools/infer.py and mmesbnn.deploy.Runner run them without torch and
OpenMMLab. Before the files are written, both forms are compared with torch on test images of
the config, or on bundled photographs if the config has none, or on random noise if neither
scikit-image nor scikit-learn is installed. Exit status 0: the files are written; 2: they are
not written, and the message says why.
"""

import argparse
import warnings
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.errors import shorten
from mmesbnn.optional import require


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config file, or a packed file')
    parser.add_argument('checkpoint', type=options.name, nargs='?', help='weights of its model')
    parser.add_argument(
        '--out', type=options.name, required=True, metavar='DIR', help='folder to write'
    )
    parser.add_argument(
        '--shape',
        type=options.pixels,
        nargs='+',
        metavar='N',
        help="height and width of the images, or one number (default: the config's)",
    )
    parser.add_argument(
        '--dynamic-batch', action='store_true', help='allow any number of images per batch'
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='round full-precision weights to half precision; model.native keeps 32 bits for each',
    )
    parser.add_argument('--no-native', action='store_true', help='write the form for OpenVINO only')
    parser.add_argument(
        '--strict', action='store_true', help='fail if a binary layer stays in full precision'
    )
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
    if args.shape is not None:
        if len(args.shape) > 2:
            parser.error(f'--shape {args.shape}: must be one or two numbers')
        args.shape = args.shape if len(args.shape) == 2 else args.shape * 2
    packed = Path(args.config).suffix == '.safetensors'
    if packed != (args.checkpoint is None):
        parser.error('give a config and a checkpoint, or a packed file alone')
    return args


def main() -> None:
    warnings.simplefilter('ignore')
    args = parse_args()
    require('openvino', 'deploy', 'tools/export.py')
    from mmesbnn.deploy.openvino.export import check_output, export
    from mmesbnn.deploy.tasks.make import make_task
    from mmesbnn.deploy.tasks.trained import load_trained

    check_output(args.out, args.config, args.checkpoint)
    cfg, model, meta = load_trained(
        args.config,
        args.checkpoint,
        options=args.cfg_options,
        trust_stored_config=args.trust_stored_config,
        max_bytes=args.max_bytes,
    )
    task = make_task(cfg, model, size=args.shape, count=args.images, dataset_meta=meta)
    # a manifest is text, which a file's name need not be
    source = {
        'config': None if args.checkpoint is None else shorten(Path(args.config).name, 300),
        'checkpoint': shorten(Path(args.checkpoint or args.config).name, 300),
    }
    report = export(
        task,
        args.out,
        dynamic_batch=args.dynamic_batch,
        half=args.half,
        strict=args.strict,
        with_native=not args.no_native,
        source=source,
    )
    print(report.text())
    print(f'wrote {args.out}')


if __name__ == '__main__':
    cli.run(main)
