"""Upscale images with a super-resolution model.

    python tools/upscale.py IMAGE... --model MODEL [--out DIR] [--scale 4] [--seed 0]

MODEL is a folder of a pipeline (tools/test_sr.py --export writes one) or of a UNet, a
published BI-DiffSR file, or a checkpoint of tools/train_sr.py with its --config.
Results are PNGs such as IMAGE_x2.png; transparency is upscaled bicubically. An image that
cannot be used is named and skipped. Exit status 1: some images were skipped; 2: no image
was upscaled.
"""

import argparse
import sys
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

import numpy as np
import torch
from PIL import Image

from mmesbnn.analysis import InputError, build_model, explained, load_config, load_weights
from mmesbnn.conversion import load_sr_pipeline
from mmesbnn.errors import printable, sentence
from mmesbnn.images.files import MAX_PIXELS, ImageError, check_mode, check_pixels, read_image_file
from mmesbnn.images.opacity import opacity
from mmesbnn.images.tensors import write_png
from mmesbnn.whole_files import check_place, check_results, result_path


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', type=options.name, nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument(
        '--model', type=options.name, required=True, help='folder or file of the model'
    )
    parser.add_argument(
        '--config', type=options.name, help='config of a checkpoint from tools/train_sr.py'
    )
    parser.add_argument(
        '--out',
        type=options.name,
        default='.',
        metavar='DIR',
        help='folder for the results (default: the current folder)',
    )
    parser.add_argument(
        '--scale', type=options.count, help="upscaling factor (default: the model's)"
    )
    parser.add_argument(
        '--steps', type=options.count, default=50, help='sampling steps (default: 50)'
    )
    parser.add_argument(
        '--seed',
        type=options.seed,
        default=0,
        help='seed of the noise, equal for all images (default: 0)',
    )
    parser.add_argument(
        '--tile',
        type=options.pixels_or_none,
        default=1024,
        metavar='PIXELS',
        help='make larger results from overlapping tiles of this size; 0: no tiles (default: 1024)',
    )
    parser.add_argument(
        '--overlap',
        type=options.pixels_or_none,
        default=64,
        metavar='PIXELS',
        help='overlap of tiles (default: 64)',
    )
    parser.add_argument(
        '--max-pixels',
        type=options.area,
        default=MAX_PIXELS,
        metavar='N',
        help=f'skip images that are larger, before or after upscaling (default: {MAX_PIXELS})',
    )
    parser.add_argument(
        '--device',
        type=options.name,
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='device to run on (default: cuda if available, else cpu)',
    )
    cli.add_max_bytes(parser)
    return parser.parse_args()


def read(path, scale, max_pixels):
    """Return the image, rotated upright, and its transparency (None if it has none)."""
    image = read_image_file(path, max_pixels)
    check_mode(image, str(path))
    height, width = image.height * scale, image.width * scale
    check_pixels(height, width, max_pixels, f'{path}, upscaled,')
    deep = image.mode.startswith('I')  # 16 bits, which the pipeline reads
    alpha = opacity(image)
    if alpha is not None and not deep:
        image = image.convert('RGBA').convert('RGB')
    image.info.pop('transparency', None)
    return image, alpha


def targets(paths, folder, scale):
    """Return the paths of the results; raise an error if two results have the same path."""
    found = {}
    for path in map(Path, paths):
        target = result_path(folder, path.stem, f'_x{scale}.png')
        if target in found:
            raise InputError(f'{path} and {found[target]} would both become {target}')
        if not path.is_file():
            raise InputError(f'{path}: no such file')
        found[target] = path
    return found


def load_pipeline(model, config, max_bytes):
    if config is None:
        with explained(f'cannot load {model}'):
            return load_sr_pipeline(model, max_bytes)
    network = build_model(load_config(config))
    load_weights(network, model, max_bytes)
    return network.eval().to_pipeline()


def main():
    args = parse_args()
    check_place(args.out)
    pipeline = load_pipeline(args.model, args.config, args.max_bytes)
    with explained(f'cannot use --device {args.device}'):
        pipeline.to(args.device)
    scale = pipeline.config.scale if args.scale is None else args.scale
    errors, found = [], targets(args.images, Path(args.out), scale)
    check_results(found, (*args.images, args.model, args.config))
    for target, path in found.items():
        try:
            image, alpha = read(path, scale, args.max_pixels)
        except ImageError as error:
            errors.append(error)
            continue
        upscale(pipeline, image, alpha, target, path, scale, args)
    return finish(errors, len(args.images))


def upscale(pipeline, image, alpha, target, path, scale, args):
    pipeline.set_progress_bar_config(desc=printable(path.name))
    with explained(str(path)):
        (result,) = pipeline(
            image,
            scale,
            args.steps,
            seed=args.seed,
            tile_size=args.tile or None,
            tile_overlap=args.overlap,
        ).images
        if alpha is not None:
            result.putalpha(alpha.resize(result.size, Image.Resampling.BICUBIC))
        write_png(target, torch.from_numpy(np.array(result)).permute(2, 0, 1))
    size = f'{result.width} x {result.height}'
    print(printable(f'{path} ({image.width} x {image.height}) -> {target} ({size})'))


def finish(errors, count):
    """List the skipped images and return the exit status."""
    if not errors:
        return 0
    if count == 1:
        raise errors[0]
    for error in errors:
        print(f'upscale.py: {sentence(error)}', file=sys.stderr)
    print(f'upscale.py: {len(errors)} of {count} images skipped', file=sys.stderr)
    return 1 if len(errors) < count else 2


if __name__ == '__main__':
    cli.run(main)
