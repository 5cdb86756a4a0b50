"""Run an exported network on images.

    python tools/infer.py DIR IMAGE... [--out FOLDER]

DIR is what tools/export_openvino.py made. Prints a line per image; with --out, draws
labels or boxes, or saves upscaled images, as PNGs. Needs openvino, numpy and pillow,
and neither torch nor OpenMMLab. Exit status 2: something could not be used; the rest
was not run.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from mmesbnn import cli  # before what takes time to import

# isort: split

from PIL import Image

from mmesbnn.deploy import ImageError, Runner
from mmesbnn.deploy.drawing import draw_boxes, draw_labels
from mmesbnn.deploy.images import read_image
from mmesbnn.whole_files import whole_file

ENDINGS = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', metavar='DIR', help='an export')
    parser.add_argument(
        'images', metavar='IMAGE', nargs='+', help='image files, or folders of them'
    )
    parser.add_argument('--out', metavar='FOLDER', help='where to put drawn results')
    parser.add_argument('--json', metavar='FILE', help='write all results here')
    parser.add_argument('--threads', type=int, help='CPU threads (all)')
    parser.add_argument('--batch', type=int, default=1, help='images together (1)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of a box (0.3)'
    )
    parser.add_argument('--steps', type=int, help="steps of diffusion (the export's)")
    parser.add_argument('--seed', type=int, default=0, help='seed of its noise (0)')
    parser.add_argument(
        '--no-verify', action='store_true', help='run an IR that was changed by hand'
    )
    return parser.parse_args()


def find(paths):
    """The image files; those in folders in the order of their names."""
    for path in map(Path, paths):
        if path.is_dir():
            files = [p for p in sorted(path.rglob('*')) if p.suffix.lower() in ENDINGS]
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
    """Results in the order of the files."""
    if runner.task == 'super_resolution':
        for file in files:
            yield runner.upscale(
                file, steps=args.steps, seed=args.seed,
                progress=lambda steps: show(steps, 'step'),
            )  # fmt: skip
    elif len(files) > 1:
        results = runner.stream(files, args.batch)
        yield from show(results, 'image', len(files))
    else:
        yield runner(files[0])


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
    image, classes = read_image(file), runner.manifest['classes']
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
    files = list(find(args.images))
    runner = Runner(args.folder, threads=args.threads, verify=not args.no_verify)
    began, collected = time.perf_counter(), {}
    paths = targets(out, files) if out else [None] * len(files)
    for file, path, result in zip(files, paths, run(runner, files, args)):
        text, collected[str(file)] = describe(runner, result, args.score_thr)
        if path:
            image = draw(runner, file, result, args.score_thr)
            with whole_file(path) as partial:
                image.save(partial, format='PNG')
            text += f'  -> {path}'
        print(f'{file}  {text}')
    if args.json:
        with whole_file(args.json) as partial:
            partial.write_text(json.dumps(collected, indent=1))
    took = time.perf_counter() - began
    print(f'{len(files)} images in {took:.2f} s, reading and drawing included')


if __name__ == '__main__':
    cli.run(main)
