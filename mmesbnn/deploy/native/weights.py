"""Weights of a graph as the native library reads them."""

from __future__ import annotations

import numpy as np
import openvino as ov

from ..runtime.program_maps import BINARY_LANES, REAL_LANES


def pack_binary(weight: np.ndarray) -> np.ndarray:
    """Pack bits ``(C_o, C_i, k_h, k_w)`` as ``(blocks, taps, words, 8)`` words."""
    kernels, depth = weight.shape[:2]
    words, blocks = -(-depth // 64), -(-kernels // BINARY_LANES)
    bits = np.zeros((blocks * BINARY_LANES, weight[0, 0].size, words * 64), bool)
    bits[:kernels, :, :depth] = weight.reshape(kernels, depth, -1).transpose(0, 2, 1)
    packed = np.packbits(bits, axis=-1, bitorder='little').view('<u8')
    return packed.reshape(blocks, BINARY_LANES, -1, words).transpose(0, 2, 3, 1).copy()


def pack_real(weight: np.ndarray, groups: int) -> np.ndarray:
    """Pack ``(C_o, C_i / groups, k_h, k_w)`` as ``(groups, blocks, taps, C_i / groups, 16)``."""
    kernels, depth = len(weight) // groups, weight.shape[1]
    blocks = -(-kernels // REAL_LANES)
    wide = np.zeros((groups, blocks * REAL_LANES, depth, weight[0, 0].size), np.float32)
    wide[:, :kernels] = weight.reshape(groups, kernels, depth, -1)
    parts = wide.reshape(groups, blocks, REAL_LANES, depth, -1)
    return parts.transpose(0, 1, 4, 3, 2).copy()


def bits_of(node: ov.Node) -> np.ndarray:
    """Return a constant of bits as booleans."""
    shape = tuple(node.get_output_shape(0))
    raw = np.frombuffer(node.get_data().tobytes(), np.uint8)
    count = int(np.prod(shape))
    if raw.size == count and raw.size > 1:  # one byte for each
        return raw.reshape(shape) != 0
    return np.unpackbits(raw, bitorder='little')[:count].astype(bool).reshape(shape)
