"""Results of inner norms that are not written."""

import copy

import pytest
import torch

from mmesbnn.binary import recompute_elementwise
from tests.binary.operators import without_kernels
from tests.binary.units import Unit, assert_rounding, inputs, results
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


@pytest.mark.parametrize('multiplies', [False, True])
@pytest.mark.parametrize('copies', [1, 4])
@pytest.mark.parametrize('with_cp', [False, True])
def test_a_gated_norm_reads_what_is_not_written(calls, copies, multiplies, with_cp):
    x, gate = inputs(3, 16, 7, 9)
    unit = Unit(copies, multiplies)
    expected = without_kernels(results, copy.deepcopy(unit), x, gate)

    def again(x, gate):
        return recompute_elementwise(lambda x: unit(x, gate), x)

    assert_rounding(results(unit, x, gate, again if with_cp else None), expected)
    assert calls == ['_SignedConv', '_Norm', '_Norm'] * (2 if with_cp else 1)


def test_what_is_not_written_is_stored_as_16_bits(calls):
    x, gate = inputs(2, 16, 6, 6)
    unit, stored = Unit(), []

    def keep(tensor):
        stored.append(tensor)
        return tensor

    y, *_ = unit.activated(x.clone().requires_grad_())
    assert y.stand_in.shape == (2, 16, 6, 6)
    assert y.stand_in.untyped_storage().nbytes() == 4
    assert y.sums.dtype == torch.int16 and y.sums.shape == (2, 4, 6, 6)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unit(x.clone().requires_grad_(), gate)
    maps = [one for one in stored if one.shape[-2:] == (6, 6) and one.is_floating_point()]
    # input and residual are the same map
    assert {one.data_ptr() for one in maps} == {maps[0].data_ptr()}


@pytest.mark.parametrize('default', [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_torch_changes_nothing(calls, default):
    x, gate = inputs(2, 16, 6, 6)
    unit = Unit()
    expected = results(copy.deepcopy(unit), x, gate)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = results(unit, x, gate)
    finally:
        torch.set_default_dtype(before)
    assert_rounding(found, expected)
    assert len(calls) == 6


def test_torch_reads_what_is_not_written(calls):
    x, gate = inputs(2, 16, 6, 6)
    unit = Unit()
    unit.outer.norm.register_forward_hook(lambda *args: None)
    expected = without_kernels(results, copy.deepcopy(unit), x, gate)
    assert_rounding(results(unit, x, gate), expected)
    assert calls == ['_SignedConv', '_Norm']
