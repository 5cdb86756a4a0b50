"""Run an exported network on images.

    python tools/infer.py DIR IMAGE... [--out FOLDER]

DIR is what tools/export_openvino.py made. Prints a line per image; with --out, draws
labels or boxes, or saves upscaled images, as PNGs. Needs openvino, numpy and pillow,
and neither torch nor OpenMMLab. An image that cannot be used is named and left out.
Exit status 1: some images were left out; 2: nothing could be run.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from mmesbnn import cli, options  # before what takes time to import

# isort: split

from PIL import Image

from mmesbnn.deploy import ImageError, Runner
from mmesbnn.deploy.runtime.drawing import draw_boxes, draw_labels
from mmesbnn.deploy.runtime.images import MAX_PIXELS, read_image
from mmesbnn.errors import sentence
from mmesbnn.whole_files import check_file, whole_file

ENDINGS = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=options.name, metavar='DIR', help='an export')
    parser.add_argument(
        'images',
        type=options.name,
        metavar='IMAGE',
        nargs='+',
        help='image files, or folders of them',
    )
    parser.add_argument(
        '--out', type=options.name, metavar='FOLDER', help='where to put drawn results'
    )
    parser.add_argument('--json', type=options.name, metavar='FILE', help='write all results here')
    parser.add_argument('--threads', type=options.count, help='CPU threads (all)')
    parser.add_argument('--batch', type=options.count, default=1, help='images together (1)')
    parser.add_argument(
        '--score-thr', type=options.fraction, default=0.3, help='least score of a box (0.3)'
    )
    parser.add_argument('--steps', type=options.count, help="steps of diffusion (the export's)")
    parser.add_argument('--seed', type=options.seed, default=0, help='seed of its noise (0)')
    parser.add_argument(
        '--max-pixels',
        type=options.area,
        default=MAX_PIXELS,
        metavar='N',
        help=f'larger images are left out, read or upscaled ({MAX_PIXELS})',
    )
    parser.add_argument(
        '--no-verify', action='store_true', help='run an IR that was changed by hand'
    )
    return parser.parse_args()


def find(paths):
    """The image files; those in folders in the order of their names."""
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


def show(items, what, total=None):
    """Pass items on and count them on the terminal."""
    for i, item in enumerate(items, start=1):
        if sys.stderr.isatty():
            print(f'\r{what} {i}/{total or len(items)} ', end='', file=sys.stderr)
        yield item
    if sys.stderr.isatty():
        print('\r\033[K', end='', file=sys.stderr)


def run(runner, files, args):
    """Results in the order of the files, or errors in their place."""
    if runner.task == 'super_resolution':
        for file in files:
            yield attempt(
                runner.upscale,
                file,
                steps=args.steps,
                seed=args.seed,
                progress=lambda steps: show(steps, 'step'),
            )
    elif len(files) > 1:
        results = runner.stream(files, args.batch, return_errors=True)
        yield from show(results, 'image', len(files))
    else:
        yield attempt(runner, files[0])


def attempt(work, *args, **kwargs):
    """What ``work`` returns, or the error if an image cannot be used."""
    try:
        return work(*args, **kwargs)
    except ImageError as error:
        return error


def describe(runner, result, score_thr):
    """A result in a line, and as JSON."""
    if runner.task == 'classification':
        label = result.get('pred_class', result['pred_label'])
        text = f'{label}  {result["pred_score"]:.4f}'
        return text, {**result, 'pred_scores': result['pred_scores'].tolist()}
    if runner.task == 'detection':
        shown = int((result['scores'] >= score_thr).sum())
        names = result.get('classes') or [str(label) for label in result['labels']]
        best = ', '.join(
            f'{name} {score:.2f}'
            for name, score in list(zip(names, result['scores']))[: min(shown, 5)]
        )
        plain = {k: v.tolist() if k != 'classes' else v for k, v in result.items()}
        return f'{shown} boxes  {best}', plain
    height, width = result.shape[:2]
    return f'{width}x{height}', {'width': width, 'height': height}


def draw(runner, file, result, score_thr):
    """A result as an image."""
    if runner.task == 'super_resolution':
        return Image.fromarray(result)
    image = read_image(file, runner.max_pixels)
    classes = runner.manifest['classes']
    if runner.task == 'classification':
        return draw_labels(image, result, classes)
    return draw_boxes(image, result, classes, score_thr)


def targets(out, files):
    """Where the drawn results go; files of one name in two folders stay apart."""
    taken, paths = set(), []
    for file in files:
        path, number = out / f'{file.stem}.png', 1
        while path in taken:
            path, number = out / f'{file.stem}_{number}.png', number + 1
        taken.add(path)
        paths.append(path)
    return paths


def main():
    args = parse_args()
    out = Path(args.out) if args.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise OSError(f'{out}: cannot be written to')
    if args.json:
        check_file(args.json)
    files = list(find(args.images))
    runner = Runner(
        args.folder, threads=args.threads, verify=not args.no_verify, max_pixels=args.max_pixels
    )
    began, collected, errors = time.perf_counter(), {}, []
    paths = targets(out, files) if out else [None] * len(files)
    for file, path, result in zip(files, paths, run(runner, files, args)):
        if isinstance(result, ImageError):
            errors.append(result)
            continue
        text, told = describe(runner, result, args.score_thr)
        if path:
            image = attempt(draw, runner, file, result, args.score_thr)
            if isinstance(image, ImageError):  # it has gone since
                errors.append(image)
                continue
            with whole_file(path) as partial:
                image.save(partial, format='PNG')
            text += f'  -> {path}'
        collected[str(file)] = told
        print(f'{file}  {text}')
    return finish(files, collected, errors, args.json, time.perf_counter() - began)


def finish(files, results, errors, json_file, took):
    """Write all results, and say what was left out; return the exit status."""
    if len(errors) == len(files) == 1:
        raise errors[0]
    if json_file:
        with whole_file(json_file) as partial:
            partial.write_text(json.dumps(results, indent=1))
    for error in errors:
        print(f'infer.py: {sentence(error)}', file=sys.stderr)
    done = len(files) - len(errors)
    print(f'{done} images in {took:.2f} s, reading and drawing included')
    if not errors:
        return 0
    print(f'infer.py: {len(errors)} of {len(files)} images left out', file=sys.stderr)
    return 1 if done else 2


if __name__ == '__main__':
    cli.run(main)
