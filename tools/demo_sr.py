"""Train narrow super-resolution diffusion models, ES and baseline, on photographs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import demo  # first, because it sets how threads wait
from demo import ROOT

# isort: split

from mmengine.fileio import load

from mmesbnn import cli, options
from mmesbnn.datasets import write_photographs
from mmesbnn.evaluation import psnr, ssim
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import image_files, read_rgb, to_uint8
from mmesbnn.plots.comparison import draw_comparison

CONFIG = 'configs/demo/es_bi_diffsr_photos.py'
DATA = Path('data/photographs')
SCALE = 2
#: The baseline and ES. Both have equally many operations and weight bits.
TAUS = (1, 2)


def start(*command: str, log: Path | None = None) -> subprocess.Popen:
    """Start a tool from the project's root; its output goes to ``log`` if given."""
    if log is None:
        return demo.start([sys.executable, *command])
    with log.open('w') as output:
        return demo.start([sys.executable, *command], stdout=output, stderr=subprocess.STDOUT)


def finish(title: str, process: subprocess.Popen, log: Path | None = None) -> None:
    """Wait for a tool; stop the demo if it failed."""
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C
        demo.stop(process)
        raise
    if status:
        where = '' if log is None else f', see {log}'
        sys.exit(f'demo: "{title}" failed with code {status}{where}')


def run(title: str, *command: str, log: Path | None = None) -> None:
    """Show a command line and run it."""
    shown = ' '.join(command) + (f' > {log}' if log else '')
    print(f'\n=== {title}\n    python {shown}\n', flush=True)
    finish(title, start(*command, log=log), log)


def start_training(
    work_dir: Path, tau: int, iters: int | None
) -> tuple[subprocess.Popen, Path | None]:
    """Start a training; return it and the log that its output goes to."""
    changes = [f'model.unet.tau={tau}']
    if iters is not None:
        keys = (
            'train_cfg.max_iters',
            'train_cfg.val_interval',
            'default_hooks.checkpoint.interval',
        )
        changes += [f'{key}={iters}' for key in keys]
    folder = work_dir / f'tau{tau}'
    folder.mkdir(parents=True, exist_ok=True)
    command = ('tools/train_sr.py', CONFIG, '--work-dir', str(folder), '--cfg-options', *changes)
    log = None if tau == TAUS[-1] else folder / 'output.txt'
    shown = f'{" ".join(command)}{f" > {log}" if log else ""}'
    print(f'\n=== train, tau = {tau}\n    python {shown}\n', flush=True)
    return start(*command, log=log), log


def train(work_dir: Path, iters: int | None) -> None:
    """Train both models at the same time, on one core each; show the ES model's log."""
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    processes: dict[int, tuple[subprocess.Popen, Path | None]] = {}
    try:
        for tau in TAUS:
            processes[tau] = start_training(work_dir, tau, iters)
        for tau, (process, log) in processes.items():
            finish(f'train, tau = {tau}', process, log)
    finally:
        for process, _ in processes.values():
            demo.stop(process)


def test(folder: Path, tau: int) -> None:
    """Test and export a trained model, and count its operations."""
    checkpoint = os.path.relpath((folder / 'last_checkpoint').read_text().strip(), ROOT)
    changes = ('--cfg-options', f'model.unet.tau={tau}')
    places = {'--out': 'images', '--export': 'pipeline', '--work-dir': 'test'}
    where = [word for name, part in places.items() for word in (name, str(folder / part))]
    command = ('tools/test_sr.py', CONFIG, checkpoint, *where, *changes)
    run(f'test and export, tau = {tau}', *command)
    costs = ('--shape', '64', '64', '--json', str(folder / 'ops.json'))
    run(
        f'count operations of one step, tau = {tau}',
        *('tools/count_ops.py', CONFIG, *costs, *changes),
        log=folder / 'ops.txt',
    )


def upscale(pipeline: Path, out: Path) -> None:
    """Enlarge an image with an exported model."""
    image = DATA / 'test' / 'LR_bicubic' / f'X{SCALE}' / 'chelsea.png'
    how = ('--model', str(pipeline), '--steps', '4', '--out', str(out))
    run('upscale an image with the exported pipeline', 'tools/upscale.py', str(image), *how)


def compare(work_dir: Path) -> tuple[dict[str, list[float]], list]:
    """Return the mean PSNR and SSIM of every version, and rows of images to draw."""
    figures, rows = {}, []
    files = image_files(DATA / 'test' / 'HR')
    for file in files:
        hr = read_rgb(file)
        lr = read_rgb(DATA / 'test' / 'LR_bicubic' / f'X{SCALE}' / file.name)
        versions = {'bicubic': to_uint8(resize(lr / 255, hr.shape[1:]))}
        for tau in TAUS:
            path = work_dir / f'tau{tau}' / 'images' / 'test' / file.name
            versions[f'tau = {tau}'] = read_rgb(path)
        row = [('input', lr)]
        for name, image in versions.items():
            measured = [f(image, hr, SCALE, 'Y') for f in (psnr, ssim)]
            old = figures.get(name, [0, 0])
            figures[name] = [a + b / len(files) for a, b in zip(old, measured)]
            row.append((f'{name}: {measured[0]:.2f} dB, {measured[1]:.4f}', image))
        row.append((f'{file.stem}, original', hr))
        # only the middle, so that single pixels are visible
        rows.append([(caption, _middle(image)) for caption, image in row])
    return figures, rows


def _middle(image):
    height, width = image.shape[1:]
    middle = image[:, height // 4 : -(height // 4), width // 4 : -(width // 4)]
    return middle.permute(1, 2, 0).numpy()


def report(figures: dict[str, list[float]], work_dir: Path) -> None:
    """Print PSNR and SSIM of every version, and the costs of both models."""
    print('\nMean over three photographs that were not trained on, on luma:\n')
    print(f'  {"":12}PSNR (dB)    SSIM')
    for name, (db, similarity) in figures.items():
        print(f'  {name:12}{db:9.3f}  {similarity:6.4f}')
    print('\nOne of the four steps, for a result of 128 x 128:\n')
    for tau in TAUS:
        total = load(work_dir / f'tau{tau}' / 'ops.json')['total']
        print(
            f'  tau = {tau}     {total["ops"] / 1e6:.1f} M OPs, '
            f'{total["binary_params"]} binary + {total["fp_params"]} real parameters'
        )


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=options.absolute, default=Path('work_dirs/demo_sr'))
    parser.add_argument(
        '--iters', type=options.count, help="iterations of the training; default: the config's"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    demo.need('tools/demo_sr.py', diffusers='sr')
    began, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)  # before the work
    if write_photographs(DATA, SCALE):
        print(f'wrote six photographs to train on and three to test on to {DATA}')

    train(work_dir, args.iters)
    for tau in TAUS:
        test(work_dir / f'tau{tau}', tau)
    upscale(work_dir / f'tau{TAUS[-1]}' / 'pipeline', work_dir)
    picture = work_dir / 'comparison.png'
    figures, rows = compare(work_dir)
    draw_comparison(rows, picture, 'Photographs that were not trained on')
    report(figures, work_dir)
    print(f"""
Done in {time.time() - began:.0f} s. tau = 1 is the baseline, tau = 2 expands and
shrinks. The networks are narrow and were trained for minutes. The demo shows that
everything works; it does not show how good the method is.

  images      {DATA}, results in {work_dir}/tau*/images
  config      {CONFIG}
  pipelines   {work_dir}/tau*/pipeline, for tools/upscale.py
  costs       {work_dir}/tau*/ops.txt, layer by layer
  picture     {picture}

Next: point data_root at photographs of your own; or take configs/bi_diffsr to DF2K.
""")


if __name__ == '__main__':
    cli.run(main)
