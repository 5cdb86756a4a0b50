"""Convert a published checkpoint to one of OpenMMLab.

    python tools/convert_checkpoint.py bnext_tiny.pth.tar bnext_tiny.pth

The result loads into the model that its meta['model'] describes. This model computes the
logits of the published network. Known families: BNext (T, S, M, L, 18), ES-BNext,
BinaryViT, ReActNet (A, 18), Bi-Real Net (18), BI-DiffSR, BiDet SSD300 and BiDet Faster R-CNN.
Exit status 0: the file is written; 2: the conversion failed.
"""

import argparse
import sys
import warnings
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.conversion import convert_file


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', type=options.name, metavar='SRC', help='the published file')
    parser.add_argument('dst', type=options.name, metavar='DST', help='the file to write')
    parser.add_argument(
        '--binarize',
        action='store_true',
        help='make the weights exact signs; ignore the temperature in the file',
    )
    parser.add_argument(
        '--se-bits',
        type=int,
        choices=(8, 32),
        help='bits of squeeze-excite in a quantised file, which does not hold this number (8)',
    )
    cli.add_max_bytes(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        result = convert_file(
            args.src,
            args.dst,
            binarize=args.binarize,
            se_bits=args.se_bits,
            max_bytes=args.max_bytes,
        )
    for label, text in result.summary.items():
        print(f'{label:<10}{text}')
    print(f'{"wrote":<10}{args.dst} ({Path(args.dst).stat().st_size / 1e6:.1f} MB)')
    for warning in caught:
        print(f'warning: {warning.message}', file=sys.stderr)


if __name__ == '__main__':
    cli.run(main)
