"""Write a small PASCAL VOC devkit: scanned digits on photographs, in VOC's own layout.

    python tools/make_mini_voc.py [ROOT] [--voc-classes] [--size W H] ...

With ``--voc-classes`` digit k has the name of VOC's class k, so that configs for VOC run on
the devkit unchanged. Without it the classes are the digits.
"""

import argparse

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.datasets import VOC_CLASSES, MiniVOC, write_mini_voc


def parse_args():
    default = MiniVOC()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('root', type=options.name, nargs='?', default='data/VOCdevkit')
    names = parser.add_mutually_exclusive_group()
    names.add_argument('--voc-classes', action='store_true', help="use VOC's first ten class names")
    names.add_argument(
        '--names',
        type=options.name,
        nargs='+',
        default=default.names,
        metavar='NAME',
        help='class names of digit 0, 1, ..., one per digit to draw; default: 0 to 9',
    )
    parser.add_argument(
        '--size',
        type=options.pixels,
        nargs=2,
        default=default.size,
        metavar=('W', 'H'),
        help='width and height of the images in pixels; default: %(default)s',
    )
    parser.add_argument(
        '--counts',
        type=options.natural,
        nargs=3,
        default=default.counts,
        metavar=('TRAIN07', 'TRAIN12', 'TEST07'),
        help='images of VOC2007 and VOC2012 trainval and of VOC2007 test; default: %(default)s',
    )
    parser.add_argument(
        '--objects',
        type=options.natural,
        nargs=2,
        default=default.objects,
        metavar=('FEWEST', 'MOST'),
        help='objects per image; default: %(default)s',
    )
    parser.add_argument(
        '--scale',
        type=options.fraction,
        nargs=2,
        default=default.scale,
        metavar=('SMALLEST', 'LARGEST'),
        help="a digit's height by the image's shorter side; default: %(default)s",
    )
    parser.add_argument('--seed', type=options.seed, default=default.seed)
    return parser, parser.parse_args()


def main():
    parser, args = parse_args()
    chosen = {**vars(args)}
    root = chosen.pop('root')
    if chosen.pop('voc_classes'):
        chosen['names'] = VOC_CLASSES[:10]
    try:
        count = write_mini_voc(root, **chosen)
    except ValueError as error:
        parser.error(str(error))
    there = f'{root} is there; no option changes it'
    print(f'wrote {count} images to {root}' if count else there)


if __name__ == '__main__':
    cli.run(main)
