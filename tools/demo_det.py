"""Train and test a narrow ES detector and its baseline on digits on photographs."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from demo import ROOT, be_quiet, need, run  # first, because it sets how threads wait

# isort: split

import numpy as np

from mmesbnn import cli, options
from mmesbnn.datasets import write_mini_voc

#: Configs by the name that the picture shows.
CONFIGS = {
    'ES, tau = 2': 'configs/demo/es_bnext_fcos_mini_voc.py',
    'baseline': 'configs/demo/bnext_fcos_mini_voc.py',
}
DATA = 'data/mini_voc'
DEVKIT = dict(
    names=('0', '1', '2'), size=(96, 96), counts=(200, 200, 100), objects=(1, 2), scale=(0.35, 0.7)
)
#: Boxes with a lower score are not drawn.
SHOWN_FROM = 0.3


def train_and_test(config: str, work_dir: Path) -> tuple[str, dict[str, float]]:
    """Train, test and count; return the checkpoint and the test's metrics."""
    run('train', 'mim', 'train', 'mmdet', config, '--work-dir', str(work_dir))
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    checkpoint = os.path.relpath(checkpoint, ROOT)
    test_dir = work_dir / 'test'
    run(
        'test on the held-out photographs and digits',
        'mim',
        'test',
        'mmdet',
        config,
        '--checkpoint',
        checkpoint,
        '--work-dir',
        str(test_dir),
    )
    run(
        'count operations and parameters',
        'python',
        'tools/count_ops.py',
        config,
        '--json',
        str(work_dir / 'ops.json'),
    )
    newest = max(test_dir.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    return checkpoint, json.loads(newest.read_text())


def load_test_data(config: str) -> tuple[list[str], list[dict], tuple[str, ...]]:
    """Return files, true boxes and class names of the config's test data."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS, init_default_scope

    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    data = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': []})
    files, truth = [], []
    for i in range(len(data)):
        info = data.get_data_info(i)
        files.append(info['img_path'])
        ignored = np.array([x['ignore_flag'] for x in info['instances']], dtype=bool)
        boxes = np.array([x['bbox'] for x in info['instances']], dtype=np.float32)
        labels = np.array([x['bbox_label'] for x in info['instances']], dtype=int)
        boxes = boxes.reshape(-1, 4)
        truth.append(
            dict(
                bboxes=boxes[~ignored],
                labels=labels[~ignored],
                bboxes_ignore=boxes[ignored],
                labels_ignore=labels[ignored],
            )
        )
    return files, truth, tuple(data.metainfo['classes'])


def detect(config: str, checkpoint: str, files: list[str]) -> list[dict[str, Any]]:
    """Return the objects that mmdet's inferencer finds in every file."""
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(config, weights=checkpoint, device='cpu')
    return inferencer(files, batch_size=20, no_save_vis=True)['predictions']


def by_class(found: dict[str, Any], count: int) -> list[np.ndarray]:
    """Return the boxes and scores of one image, class by class."""
    boxes = np.array(found['bboxes'], dtype=np.float32).reshape(-1, 4)
    rows = np.column_stack([boxes, np.array(found['scores'], dtype=np.float32)])
    labels = np.array(found['labels'], dtype=int)
    return [rows[labels == label] for label in range(count)]


def draw(checkpoints: dict[str, str], picture: Path, title: str) -> None:
    """Draw the curves of all networks and the boxes of the first network."""
    from PIL import Image

    from mmesbnn.plots.detection_curves import draw_detections, precision_recall

    files, truth, classes = load_test_data(next(iter(CONFIGS.values())))
    found = {name: detect(config, checkpoints[name], files) for name, config in CONFIGS.items()}
    curves = {
        name: precision_recall([by_class(image, len(classes)) for image in images], truth, classes)
        for name, images in found.items()
    }
    first = next(iter(found.values()))
    chosen = np.linspace(0, len(files) - 1, 10).astype(int)
    images = [
        (
            np.asarray(Image.open(files[i])),
            [
                (box, classes[label], score)
                for box, label, score in zip(
                    first[i]['bboxes'], first[i]['labels'], first[i]['scores']
                )
                if score >= SHOWN_FROM
            ],
        )
        for i in chosen
    ]
    draw_detections(images, curves, picture, title)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', type=options.absolute, default=Path('work_dirs/demo_det'))
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    be_quiet()
    need('tools/demo_det.py', **{'mmdet': 'det', 'mmcv.ops': 'det'})
    began, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)  # before the work

    if count := write_mini_voc(DATA, **DEVKIT):
        print(f'wrote a devkit of {count} images to {DATA}')
    checkpoints, metrics = {}, {}
    for name, config in CONFIGS.items():
        print(f'\n##### {name}')
        folder = work_dir / Path(config).stem
        checkpoints[name], metrics[name] = train_and_test(config, folder)
    title = 'FCOS on a binary network, mAP (11 points) on held-out images: ' + ', '.join(
        f'{name} {values["pascal_voc/mAP"]:.3f}' for name, values in metrics.items()
    )
    picture = work_dir / 'detections.png'
    draw(checkpoints, picture, title)

    print(f'\nDone in {time.time() - began:.0f} s. mAP at IoU 0.5:\n')
    print(f'  {"":14}{"11 points":>10}{"area":>8}{"OPs":>12}')
    for name, values in metrics.items():
        ops = json.loads((work_dir / Path(CONFIGS[name]).stem / 'ops.json').read_text())
        print(
            f'  {name:14}{values["pascal_voc/mAP"]:10.3f}'
            f'{values["pascal_voc_area/mAP"]:8.3f}{ops["total"]["ops"]:12.4g}'
        )
    print(f"""
  images      {DATA}
  configs     {' '.join(CONFIGS.values())}
  checkpoints {' '.join(checkpoints.values())}
  picture     {picture}

Next: other values of tau in the configs; a devkit of your own classes in {DATA}; or the
recipes in configs/bidet, configs/es_bidet and configs/bnext_det on PASCAL VOC.
""")


if __name__ == '__main__':
    cli.run(main)
