"""Pack a trained network: one bit per binary weight, in a safetensors file.

    python tools/pack_checkpoint.py CHECKPOINT OUT.safetensors [--config FILE] [--half]

mmesbnn.deploy.load_packed(OUT) builds a network with equal outputs. Exit status 0: the
file is written; 2: the input is wrong or the network cannot be packed, and the message
names the layer.
"""

import argparse
import os

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.deploy import pack_checkpoint


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=options.name, help='weights of a trained network')
    parser.add_argument(
        'out', type=options.name, metavar='OUT.safetensors', help='the file to write'
    )
    parser.add_argument(
        '--config',
        type=options.name,
        metavar='FILE',
        help='config of the network; default: the config in the checkpoint',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='round all values except the bits to half precision (relative error at most 2^-11)',
    )
    cli.add_trust(parser)
    cli.add_max_bytes(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    report = pack_checkpoint(
        args.checkpoint,
        args.out,
        config=args.config,
        half=args.half,
        trust_stored_config=args.trust_stored_config,
        max_bytes=args.max_bytes,
    )
    print(report.table())
    before = os.path.getsize(args.checkpoint)
    print(f'wrote {args.out} (the checkpoint has {before / 1e6:.1f} MB)')


if __name__ == '__main__':
    cli.run(main)
