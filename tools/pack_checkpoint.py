"""Pack a trained network: one bit per binary weight, in a safetensors file.

    python tools/pack_checkpoint.py CHECKPOINT OUT.safetensors [--config FILE] [--half]

mmesbnn.deploy.load_packed(OUT) builds the network again, with equal outputs.
Exit status 0: written. 2: the network cannot be packed (the layer is named), or wrong
input.
"""

import argparse
import os

from mmesbnn import cli, options  # before what takes time to import

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
        help='its config; by default what the checkpoint holds',
    )
    parser.add_argument(
        '--half',
        action='store_true',
        help='round all but the bits to half precision, by 2^-11 of a value at most',
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
