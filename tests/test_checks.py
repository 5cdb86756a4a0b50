import pytest

from mmesbnn.checks import check_positive


@pytest.mark.parametrize('value', [0, -1, 1.0, True, None, '2'])
def test_a_number_that_is_not_positive_is_named(value):
    with pytest.raises(ValueError, match=rf'jobs={value!r} must be an integer >= 1'):
        check_positive(threads=1, jobs=value)


def test_positive_numbers_pass():
    check_positive(threads=1, jobs=100)
