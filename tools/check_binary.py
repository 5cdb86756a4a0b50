"""Check that a trained network is really binary, on a batch of its own test data.

    python tools/check_binary.py CONFIG CHECKPOINT [--batch N]

A binary layer passes if its inputs are exactly +-1 and its weights take two values per
output channel. Exit status 0: all binary layers pass; 1: some fail, and the output names
them; 2: the check could not run.
"""

import argparse

from mmesbnn import cli, options  # before the slow imports

# isort: split

import torch

from mmesbnn.analysis import (
    build_model,
    check_binary,
    explained,
    load_config,
    load_weights,
    real_batch,
)
from mmesbnn.binary import binary_layers


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=options.name, help='config file, with test data')
    parser.add_argument('checkpoint', type=options.name, help='weights of its model')
    parser.add_argument(
        '--batch', type=options.count, default=8, metavar='N', help='number of images (default: 8)'
    )
    cli.add_cfg_options(parser, 'test_dataloader.dataset.data_root=x')
    cli.add_max_bytes(parser)
    args = parser.parse_args()
    return args


def census(model):
    """Count the layers that multiply, and the binary ones among them."""
    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    return (
        f'{len(binary_layers(model))} of {len(layers)} convolutions and linear layers are; '
        'tools/count_ops.py says why the others are not'
    )


def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    model = build_model(cfg)
    load_weights(model, args.checkpoint, args.max_bytes)
    batch = real_batch(cfg, args.batch)
    with explained('cannot run the model on a batch of its test data'):
        findings = check_binary(model, batch)
    for finding in findings:
        print(finding)
    if not findings:
        print(f'every binary layer is binary: {census(model)}')
    return 1 if findings else 0


if __name__ == '__main__':
    cli.run(main)
