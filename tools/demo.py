"""Train, test, check, count and deploy a narrow ES-BNext on real scanned digits."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

# Threads sleep while they wait for each other, here and in the tools that are started.
# OpenMP's default is to spin, and in small networks beside other processes that takes
# most of the time. OpenMP reads it when mmesbnn imports torch.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# isort: split

from mmesbnn import cli, options  # before the slow imports

# isort: split

import numpy as np
from PIL import Image

from mmesbnn.datasets import write_digits
from mmesbnn.optional import require
from mmesbnn.plots.curves import draw_training, read_scalars

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/demo/es_bnext_digits.py'
DATA = 'data/digits'
#: Warnings that mim and mmcv-lite print at every start. Users of the demo cannot avoid them.
NOISE = (
    'pkg_resources is deprecated as an API',
    'Fail to import ``MultiScaleDeformableAttention``',
)


def quiet_environment() -> dict[str, str]:
    """Return environment variables that hide the known warnings of a tool."""
    filters = ','.join(f'ignore:{text}:UserWarning' for text in NOISE)
    return {**os.environ, 'PYTHONWARNINGS': filters}


def be_quiet() -> None:
    """Hide the known warnings in this process too."""
    for text in NOISE:
        warnings.filterwarnings('ignore', text)


def need(tool: str, **extras: str) -> None:
    """Check that a demo's packages can be imported, before it trains for minutes."""
    for package, extra in extras.items():
        require(package, extra, tool)


def start(command: list[str], **options: Any) -> subprocess.Popen:
    """Start a program in the project's root, in its own process group."""
    return subprocess.Popen(
        command, cwd=ROOT, env=quiet_environment(), start_new_session=True, **options
    )


def stop(process: subprocess.Popen) -> None:
    """Ask a program and its process group to end, and wait for the program."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def run(title: str, *command: str) -> None:
    """Show a command line and run it in the project's root; exit if it fails."""
    print(f'\n=== {title}\n    {" ".join(command)}\n', flush=True)
    program = {'mim': [str(Path(sys.executable).with_name('mim'))], 'python': [sys.executable]}[
        command[0]
    ]
    process = start([*program, *command[1:]])
    try:
        status = process.wait()
    except BaseException:  # Ctrl-C
        stop(process)
        raise
    if status:
        sys.exit(f'demo: "{title}" failed with exit code {status}')


def predict(checkpoint: str, count: int = 20) -> list[tuple]:
    """Classify ``count`` held-out images; return (image, label, predicted)."""
    from mmpretrain import ImageClassificationInferencer

    files = sorted((ROOT / DATA / 'val').glob('*/*.png'))
    files = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    inferencer = ImageClassificationInferencer(CONFIG, pretrained=checkpoint)
    results = inferencer([str(file) for file in files], batch_size=count)
    return [
        (np.asarray(Image.open(file)), file.parent.name, str(result['pred_label']))
        for file, result in zip(files, results)
    ]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=options.absolute, default=Path('work_dirs/demo'))
    return parser.parse_args()


def train_and_test(work_dir: Path) -> str:
    """Train the network and test it on the held-out images; return the checkpoint."""
    run('train', 'mim', 'train', 'mmpretrain', CONFIG, '--work-dir', str(work_dir))
    checkpoint = os.path.relpath((work_dir / 'last_checkpoint').read_text().strip(), ROOT)
    where = ('--checkpoint', checkpoint, '--work-dir', str(work_dir / 'test'))
    run('test on the held-out 30 %', 'mim', 'test', 'mmpretrain', CONFIG, *where)
    return checkpoint


def count(checkpoint: str, costs: Path) -> None:
    """Check that the trained network is binary, and count its operations."""
    run('check that it is binary', 'python', 'tools/check_binary.py', CONFIG, checkpoint)
    what = (CONFIG, '--shape', '16', '16', '--json', str(costs))
    run('count operations and parameters', 'python', 'tools/count_ops.py', *what)


def deploy(checkpoint: str, packed: str, export: str) -> None:
    """Pack and export the trained network, and compare all its forms."""
    run('one bit per weight', 'python', 'tools/pack_checkpoint.py', checkpoint, packed)
    what = (packed, '--out', export, '--dynamic-batch')
    run('export, binary layers as bits', 'python', 'tools/export.py', *what)
    run(
        'compare the checkpoint, the packed file and the export in both engines',
        *('python', 'tools/compare_deployed.py', CONFIG, checkpoint, packed, export),
    )


def draw(work_dir: Path, checkpoint: str, picture: Path) -> float:
    """Draw the training and some predictions; return the accuracy in percent."""
    records = read_scalars(work_dir)
    accuracy = [r['accuracy/top1'] for r in records if 'accuracy/top1' in r][-1]
    title = f'ES-BNext, tau = 2, on scanned digits: {accuracy:.2f} % top-1'
    draw_training(records, picture, title, predict(checkpoint))
    return accuracy


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    be_quiet()
    need('tools/demo.py', mmpretrain='cls', openvino='deploy')
    began = time.time()
    work_dir = args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)  # before the work

    if write_digits(DATA):
        print(f'wrote 1,797 scanned digits to {DATA}')
    costs, picture = work_dir / 'ops.json', work_dir / 'training.png'
    packed, export = str(work_dir / 'es_bnext_digits.safetensors'), str(work_dir / 'export')
    checkpoint = train_and_test(work_dir)
    count(checkpoint, costs)
    deploy(checkpoint, packed, export)
    accuracy = draw(work_dir, checkpoint, picture)
    print(f"""
Done in {time.time() - began:.0f} s: {accuracy:.2f} % of the held-out digits are right,
with one bit per weight and per activation in every binary layer.

  images      {DATA}
  config      {CONFIG}
  checkpoint  {checkpoint}
  picture     {picture}
  costs       {costs}
  1-bit file  {packed}
  export      {export} (python tools/infer.py {export} {DATA}/val/3 --out drawn)

Next: set tau=1 (the baseline) or tau=4 in the config and compare; point data_root at
images of your own, one folder per class; or take configs/es_bnext_tiny.py to ImageNet.
""")


if __name__ == '__main__':
    cli.run(main)
