"""Write scikit-learn's digits as an image folder in ImageNet's layout."""

import argparse

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.datasets import write_digits


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=options.name, nargs='?', default='data/digits')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    count = write_digits(args.root)
    print(f'wrote {count} images to {args.root}' if count else f'{args.root} is there')


if __name__ == '__main__':
    cli.run(main)
