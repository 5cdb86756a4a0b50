"""Small real images in the original on-disk formats of the data sets."""

import hashlib
import pickle

import numpy as np
from PIL import Image
from skimage import data

PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')
WORDNET_IDS = ('n01440764', 'n01443537', 'n02123045', 'n07920052')


def photograph(index):
    """Return one of scikit-image's bundled photographs, (H, W, 3) uint8."""
    return getattr(data, PHOTOGRAPHS[index % len(PHOTOGRAPHS)])()


def write_imagenet(root, train=4, val=2, size=96):
    """Write ImageNet's unpacked layout and its list files: `train/<wnid>/<wnid>_1.JPEG`.

    The labels are of ImageNet's 1000 classes although four of them have images.
    """
    (root / 'meta').mkdir(parents=True)
    for split, count in (('train', train), ('val', val)):
        lines = []
        for i in range(count):
            wnid = WORDNET_IDS[i % len(WORDNET_IDS)]
            name = f'{wnid}/{wnid}_{i}.JPEG'
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image = photograph(i)[i * 7 :][: 2 * size, : 3 * size]
            Image.fromarray(image).resize((size * 3 // 2, size)).save(path)
            lines.append(f'{name} {i % len(WORDNET_IDS)}\n')
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines))
    return root


def _cifar_batch(count, label_key, offset):
    images = [
        np.asarray(Image.fromarray(photograph(i + offset)).resize((32, 32))) for i in range(count)
    ]
    rows = np.stack(images).transpose(0, 3, 1, 2).reshape(count, -1)
    return {'data': rows, label_key: [i % 10 for i in range(count)]}


def write_cifar(root, dataset_class, monkeypatch, count=4):
    """Write CIFAR batches in their pickle format, and set the class's checksums."""
    folder = root / dataset_class.base_folder
    folder.mkdir(parents=True)
    key = 'fine_labels' if '100' in dataset_class.__name__ else 'labels'

    def write(name, content):
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    for attribute in ('train_list', 'test_list'):
        sums = [
            [name, write(name, _cifar_batch(count, key, i))]
            for i, (name, _) in enumerate(getattr(dataset_class, attribute))
        ]
        monkeypatch.setattr(dataset_class, attribute, sums)
    meta = dict(dataset_class.meta)
    names = {meta['key']: [str(i) for i in range(100)]}
    meta['md5'] = write(meta['filename'], names)
    monkeypatch.setattr(dataset_class, 'meta', meta)
    return root
