"""Other default devices and dtypes of torch, under which results must stay the same."""

import contextlib

import pytest
import torch

OTHERS = ['meta', torch.float64, torch.bfloat16]
with_other_defaults = pytest.mark.parametrize('default', OTHERS, ids=str)


@contextlib.contextmanager
def torch_default(default):
    """Make a device, given by its name, or a dtype torch's default."""
    if isinstance(default, str):
        with torch.device(default):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
