"""Compare the installed native kernels with sums of integers; needs numpy only.

Built wheels are tried with this script on every platform. It ends with an error if the kernels
are missing or wrong::

    python tools/dev/try_kernels.py
"""

from __future__ import annotations

import itertools

import numpy as np

from mmesbnn import native

CHANNELS, KERNELS, SIDE = 70, 9, 6


def expected(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the 3x3 convolution of signs with padding 1, as a sum over the nine taps."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    taps = itertools.product(range(3), range(3))
    return sum(
        np.einsum('nchw,oc->nohw', padded[:, :, i : i + SIDE, j : j + SIDE], weight[:, :, i, j])
        for i, j in taps
    )


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1, 1], (2, CHANNELS, SIDE, SIDE)).astype(np.float32)
    weight = rng.choice([-1, 1], (KERNELS, CHANNELS, 3, 3)).astype(np.float32)
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        for threads in (1, 3):
            packed = native.pack_signs(x, threads=threads)
            weights = native.pack_weights(weight)
            y = native.convolve(packed, weights, padding=(1, 1), threads=threads)
            np.testing.assert_array_equal(y, expected(x, weight))
        print(f'{name}: exact')


if __name__ == '__main__':
    main()
