"""Small photographs in the on-disk layouts of DF2K and the benchmark sets."""

import torch

from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import write_png
from tests.real_data import photograph


def crop_of(index, height, width):
    """Return a part of a bundled photograph, uint8 (3, H, W)."""
    image = photograph(index)[40 + 9 * index :, 80:][:height, :width]
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def write_pair(hr_folder, lr_folder, name, image, scale, lr_name):
    """Write a photograph and its bicubic version; sizes are cut to the scale."""
    write_png(hr_folder / f'{name}.png', image)
    height, width = (n // scale for n in image.shape[1:])
    small = resize(image[:, : height * scale, : width * scale], (height, width))
    write_png(lr_folder / f'{lr_name}.png', small)


def write_df2k(root, scale=4, sizes=((72, 96), (96, 72), (80, 80))):
    """Write DIV2K and Flickr2K in their unpacked layout."""
    for name, digits in (('DIV2K', 4), ('Flickr2K', 6)):
        split = '_train' if name == 'DIV2K' else ''
        hr = root / name / f'{name}{split}_HR'
        lr = root / name / f'{name}{split}_LR_bicubic' / f'X{scale}'
        for i, size in enumerate(sizes):
            stem = f'{i + 1:0{digits}}'
            image = crop_of(i + digits, *size)
            write_pair(hr, lr, stem, image, scale, f'{stem}x{scale}')
    return root


def write_benchmark(root, set_name='Set5', scale=4, sizes=((50, 67), (48, 48))):
    """Write a benchmark set; its sizes need not be multiples of the scale."""
    names = ('baby', 'bird', 'butterfly', 'head', 'woman')
    folder = root / set_name
    for i, size in enumerate(sizes):
        lr = folder / 'LR_bicubic' / f'X{scale}'
        write_pair(folder / 'HR', lr, names[i], crop_of(i, *size), scale, names[i])
    return folder
