import pytest

from mmesbnn.deploy.openvino.kernel import Geometry, pads_rightly


@pytest.mark.parametrize(
    'kernel, options, right',
    [
        ((3, 3), dict(padding=(1, 1)), True),
        ((3, 3), dict(padding=(2, 2), dilation=(2, 2)), True),
        ((7, 7), dict(padding=(3, 3)), False),  # AVX2 computes two columns at a time
        ((7, 7), dict(padding=(3, 2)), True),
        ((3, 3), dict(padding=(1, 1), stride=(3, 3)), True),
        ((3, 3), dict(padding=(1, 1), stride=(3, 3), dilation=(2, 2)), False),
        ((3, 3), dict(padding=(1, 1), stride=(3, 3), dilation=(2, 1)), True),
        ((3, 3), dict(padding=(0, 0), stride=(3, 3), dilation=(2, 2)), True),
        ((4, 4), dict(padding=(1, 0), stride=(3, 3)), False),
        ((3, 3), dict(padding=(2, 2), dilation=(6, 1)), False),  # of 5 rows
        ((3, 3), dict(padding=(2, 2), dilation=(5, 1)), True),
        ((9, 9), dict(padding=(1, 1)), True),
        ((9, 9), dict(padding=(1, 1), stride=(2, 1)), False),
    ],
)
def test_what_is_padded_rightly(kernel, options, right):
    assert pads_rightly(Geometry(**options), kernel, 5, 8) is right
    narrow = pads_rightly(Geometry(**options), kernel, 5, 1)
    assert narrow is (right and options['padding'][1] <= 1)


@pytest.mark.parametrize('value', [-1, 1])
def test_other_padded_values_than_zero(value):
    options = dict(padding=(1, 1), stride=(3, 3), dilation=(2, 2), pad_value=value)
    assert pads_rightly(Geometry(**options), (3, 3), 1, 8)
