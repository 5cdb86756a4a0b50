"""Count the operations, parameters and bytes of a config's model, layer by layer.

    python tools/count_ops.py CONFIG [--shape H W] [--json FILE]
    python tools/count_ops.py CONFIG --weights FILE --images N [--figure PNG]
        [--baseline CONFIG --baseline-weights FILE]

Prints a table: multiply-accumulates at full precision, binary operations, OPs,
parameters, bytes with and without 1-bit weights, the representation capacity of binary
layers, and the reason why a layer is not binary. With --images the network runs on images
of its test data. The table then also shows the number of values that an output entry takes,
the effective rank of the signs that a layer reads, and the correlation of copies. --figure
draws these numbers, with those of a second network; --json writes both. Exit status 0:
done; 2: the count failed.
"""

import argparse
import sys
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.analysis import (
    build_model,
    count_ops,
    explained,
    image_size,
    input_shape,
    load_config,
    load_weights,
    measure_capacity,
    most_regions,
    real_batch,
    save_json,
)
from mmesbnn.optional import require
from mmesbnn.plots.capacity import draw_capacity
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
    cli.add_cfg_options(parser, 'model.backbone.tau=4')
    group = parser.add_argument_group('measured on data')
    group.add_argument(
        '--images',
        type=options.count,
        metavar='N',
        help='run the network on N images of its test data and measure its layers',
    )
    group.add_argument(
        '--weights', type=options.name, metavar='FILE', help='checkpoint of the network'
    )
    group.add_argument(
        '--figure', type=options.name, metavar='PNG', help='draw the measured numbers here'
    )
    group.add_argument(
        '--baseline', type=options.name, metavar='CONFIG', help='measure and draw this network, too'
    )
    group.add_argument(
        '--baseline-weights', type=options.name, metavar='FILE', help='checkpoint of the baseline'
    )
    cli.add_max_bytes(parser)
    args = parser.parse_args()
    if args.images is None and (args.weights or args.figure):
        parser.error('--weights and --figure need --images')
    if args.max_bytes and not (args.weights or args.baseline_weights):
        parser.error('--max-bytes needs --weights or --baseline-weights')
    if args.baseline and not args.figure:
        parser.error('--baseline needs --figure')
    if args.baseline_weights and not args.baseline:
        parser.error('--baseline-weights needs --baseline')
    files = [Path(path).resolve() for path in (args.json, args.figure) if path]
    if len(files) > len(set(files)):
        parser.error('--json and --figure name the same file')
    return args


def measured(path, cfg, model, weights, args):
    """Measure how the layers of a model use their capacity, on images of its test data."""
    if weights:
        load_weights(model, weights, args.max_bytes)
    else:
        print(f'{path}: no weights are given, so the network is untrained', file=sys.stderr)
    batch = real_batch(cfg, args.images)
    with explained('cannot run the model on images of its test data'):
        return measure_capacity(model, lambda: model.test_step(batch))


def measured_baseline(args):
    """Measure the baseline; without one return None."""
    if not args.baseline:
        return None
    cfg = load_config(args.baseline)
    return measured(args.baseline, cfg, build_model(cfg), args.baseline_weights, args)


def draw(found, baseline, args):
    """Draw the measured numbers, with those of the baseline if there is one."""
    networks = {Path(args.config).stem: found}
    if baseline:
        networks = {f'{Path(args.baseline).stem} (baseline)': baseline, **networks}
    draw_capacity(networks, args.figure)


def save(report, baseline, args):
    """Write the report, with the numbers of the baseline if there is one."""
    content = {'config': args.config, **report.to_dict()}
    if baseline:
        layers = [layer.to_dict() for layer in baseline]
        content['baseline'] = {'config': args.baseline, 'layers': layers}
    save_json(args.json, content)


def main():
    args = parse_args()
    for path in filter(None, (args.json, args.figure)):
        check_file(path, args.config, args.weights, args.baseline, args.baseline_weights)
    if args.figure:
        require('matplotlib', 'demo', '--figure')
    cfg = load_config(args.config, args.cfg_options)
    model, shape = build_model(cfg), input_shape(cfg, args.shape)
    if not (args.shape or image_size(cfg)):
        print('the config sets no image size; use --shape to set it', file=sys.stderr)
    with explained(f'cannot run the model on an input of shape {shape}'):
        regions, arguments = most_regions(model, shape)
        report = count_ops(model, shape, **arguments)
    if args.images:
        # a detector that has counted its largest number of regions suppresses none
        model = build_model(cfg) if regions else model
        found = measured(args.config, cfg, model, args.weights, args)
        report.add_capacity(found)
    print(report.table())
    if regions:
        print(f'\nThe second stage counts {regions} regions, the maximum at test time.')
    baseline = measured_baseline(args)
    if args.figure:
        draw(found, baseline, args)
    if args.json:
        save(report, baseline, args)


if __name__ == '__main__':
    cli.run(main)
