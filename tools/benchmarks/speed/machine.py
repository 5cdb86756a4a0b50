"""Description of the machine and of the versions, for the files of results."""

from __future__ import annotations

from typing import Any

import openvino as ov
import torch

import mmesbnn

from .names import instruction_sets, processor


def describe(avx2: bool) -> dict[str, Any]:
    """Describe the machine and the versions.

    Args:
        avx2: Whether the libraries use AVX2 only.
    """
    return dict(
        processor=processor(),
        instruction_sets=instruction_sets(avx2),
        torch_instruction_set=torch.backends.cpu.get_cpu_capability(),
        avx2_only=avx2,
        versions={
            'mmesbnn': mmesbnn.__version__,
            'torch': torch.__version__,
            'openvino': ov.__version__,
        },
    )
