"""Noise depends on its seed alone."""

import torch

from mmesbnn.seeded import drawn
from tests.defaults import torch_default, with_other_defaults


@with_other_defaults
def test_noise_does_not_depend_on_the_defaults_of_torch(default):
    expected = torch.randn(2, 3, generator=torch.Generator().manual_seed(5))
    with torch_default(default):
        found = drawn((2, 3), seed=5)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
