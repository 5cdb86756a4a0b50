"""Count the operations, parameters and bytes of a config's model, layer by layer.

    python tools/count_ops.py CONFIG [--shape H W] [--json FILE]

Prints a table: multiply-accumulates at full precision, binary operations, OPs,
parameters, bytes with and without 1-bit weights, the representation capacity of binary
layers, and the reason why a layer is not binary. Exit status 0: done; 2: the count failed.
"""

import argparse
import sys

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmengine.config import DictAction

from mmesbnn.analysis import (
    build_model,
    count_ops,
    explained,
    image_size,
    input_shape,
    load_config,
    most_regions,
    save_json,
)
from mmesbnn.whole_files import check_file


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config file')
    parser.add_argument(
        '--shape',
        type=options.pixels,
        nargs=2,
        metavar=('H', 'W'),
        help="height and width of the image; default: the test pipeline's, or 224 224",
    )
    parser.add_argument(
        '--json', type=options.name, metavar='FILE', help='also write the numbers to this file'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change entries of the config, for example model.backbone.tau=4',
    )
    args = parser.parse_args()
    return args


def main():
    args = parse_args()
    if args.json:
        check_file(args.json)
    cfg = load_config(args.config, args.cfg_options)
    model, shape = build_model(cfg), input_shape(cfg, args.shape)
    if not (args.shape or image_size(cfg)):
        print('the config sets no image size; use --shape to set it', file=sys.stderr)
    with explained(f'cannot run the model on an input of shape {shape}'):
        regions, arguments = most_regions(model, shape)
        report = count_ops(model, shape, **arguments)
    print(report.table())
    if regions:
        print(f'\nThe second stage counts {regions} regions, the maximum at test time.')
    if args.json:
        save_json(args.json, {'config': args.config, **report.to_dict()})


if __name__ == '__main__':
    cli.run(main)
