"""Run an exported network on images.

    python tools/infer.py DIR IMAGE... [--out FOLDER]

DIR is a folder from tools/export.py. Prints one line per image. With --out, it also writes
PNGs: images with labels or boxes, or upscaled images. It needs numpy, pillow, and openvino
or, for classifiers, the native library, but neither torch nor OpenMMLab. An image that cannot
be used is named and skipped. Exit status 1: some images were skipped; 2: no image could be
processed.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from mmesbnn import cli, options  # before the slow imports

# isort: split

from mmesbnn.deploy import ImageError, Runner
from mmesbnn.deploy.runtime.images import MAX_PIXELS
from mmesbnn.deploy.runtime.manifest import FILES
from mmesbnn.deploy.runtime.network import ENGINES
from mmesbnn.deploy.runtime.task import Options
from mmesbnn.errors import MmesbnnError, printable, sentence
from mmesbnn.whole_files import (
    check_file,
    check_place,
    check_results,
    check_unread,
    result_path,
    whole_file,
)

ENDINGS = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'folder', type=options.name, metavar='DIR', help='folder from tools/export.py'
    )
    parser.add_argument(
        'images',
        type=options.name,
        metavar='IMAGE',
        nargs='+',
        help='image files, or folders of them',
    )
    parser.add_argument(
        '--out', type=options.name, metavar='FOLDER', help='folder for the drawn results'
    )
    parser.add_argument(
        '--json', type=options.name, metavar='FILE', help='write all results to this file'
    )
    parser.add_argument(
        '--engine',
        choices=ENGINES,
        help='engine of the network (default: native if possible, else openvino)',
    )
    parser.add_argument(
        '--threads', type=options.count, help='number of CPU threads (default: all)'
    )
    parser.add_argument(
        '--batch', type=options.count, default=1, help='number of images per batch (default: 1)'
    )
    parser.add_argument(
        '--score-thr',
        type=options.fraction,
        default=0.3,
        help='minimum score of a box (default: 0.3)',
    )
    parser.add_argument(
        '--steps', type=options.count, help="diffusion steps (default: the export's)"
    )
    parser.add_argument(
        '--seed', type=options.seed, default=0, help='seed of the diffusion noise (default: 0)'
    )
    parser.add_argument(
        '--max-pixels',
        type=options.area,
        default=MAX_PIXELS,
        metavar='N',
        help=f'skip images that are larger, before or after upscaling (default: {MAX_PIXELS})',
    )
    parser.add_argument(
        '--no-verify',
        action='store_true',
        help='run the model even if its files were changed after the export',
    )
    return parser.parse_args()


def find(paths):
    """Yield the image files; files of a folder are sorted by name."""
    for path in map(Path, paths):
        if path.is_dir():
            files = [
                file
                for file in sorted(path.rglob('*'))
                if file.suffix.lower() in ENDINGS and not file.is_dir()
            ]
            if not files:
                raise ImageError(f'{path}: a folder without images')
            yield from files
        else:
            yield path


def show(items, name, total):
    """Yield the items and show their count on the terminal."""
    for i, item in enumerate(items, start=1):
        if sys.stderr.isatty():
            print(f'\r{name} {i}/{total} ', end='', file=sys.stderr)
        yield item
    if sys.stderr.isatty():
        print('\r\033[K', end='', file=sys.stderr)


def drawn(runner, file, result, options):
    """Return a result as an image, or the error if the file can no longer be read."""
    try:
        return runner.draw(file, result, options)
    except ImageError as error:
        return error


def target(out, stem, number):
    """Return the path of a drawn result."""
    return result_path(out, stem, f'_{number}.png' if number else '.png')


def targets(out, files):
    """Return the paths of the drawn results; files with equal names get different paths."""
    taken, paths, numbers = set(), [], Counter()
    for file in files:
        path = target(out, file.stem, numbers[file.stem])
        while path in taken:
            numbers[file.stem] += 1
            path = target(out, file.stem, numbers[file.stem])
        taken.add(path)
        paths.append(path)
    return paths


def main():
    args = parse_args()
    out = check_place(args.out) if args.out else None
    # the folder of the results is made for the first one
    if args.json and (Path(args.json).parent != out or out.exists()):
        check_file(args.json)
    files = list(find(args.images))
    paths = targets(out, files) if out else [None] * len(files)
    export = [Path(args.folder, name) for name in FILES]
    check_unread(filter(None, [args.json]), (*export, *files))
    check_results(filter(None, paths), (*export, *files))
    if args.json and os.path.realpath(args.json) in map(os.path.realpath, filter(None, paths)):
        raise MmesbnnError(f'--json {args.json}: a drawn result becomes this file')
    runner = Runner(
        args.folder,
        engine=args.engine,
        threads=args.threads,
        verify=not args.no_verify,
        max_pixels=args.max_pixels,
    )
    choices = Options(
        batch_size=args.batch, score_thr=args.score_thr, steps=args.steps, seed=args.seed
    )
    began, collected, errors = time.perf_counter(), {}, []
    for file, path, result in zip(files, paths, runner.results(files, choices, show)):
        if isinstance(result, ImageError):
            errors.append(result)
            continue
        text, content = runner.describe(result, choices)
        if path:
            image = drawn(runner, file, result, choices)
            if isinstance(image, ImageError):
                errors.append(image)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                image.save(partial, format='PNG')
            text += f'  -> {printable(str(path))}'
        collected[str(file)] = content
        print(f'{printable(str(file))}  {text}')
    took = time.perf_counter() - began
    return finish(files, collected, errors, args.json, took, runner)


def finish(files, results, errors, json_file, took, runner):
    """Write all results, list the skipped images and return the exit status."""
    if len(errors) == len(files) == 1:
        raise errors[0]
    if json_file:
        Path(json_file).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(json_file) as partial:
            partial.write_text(json.dumps(results, indent=1))
    for error in errors:
        print(f'infer.py: {sentence(error)}', file=sys.stderr)
    done = len(files) - len(errors)
    print(
        f'{done} images in {took:.2f} s, reading and drawing included, by the engine '
        f'{runner.engine} ({runner.engine_reason})'
    )
    if not errors:
        return 0
    print(f'infer.py: {len(errors)} of {len(files)} images skipped', file=sys.stderr)
    return 1 if done else 2


if __name__ == '__main__':
    cli.run(main)
