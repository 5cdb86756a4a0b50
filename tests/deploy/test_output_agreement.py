"""Differences from torch's outputs are measured, and wrong outputs are refused."""

import numpy as np
import pytest

from mmesbnn.deploy import ExportError
from mmesbnn.deploy.output_agreement import ROUNDING, compare, compare_all, in_order_of


def rows(*values):
    return [np.float32([row]) for row in values]


def test_figures_of_an_output():
    agreement = compare('y', rows([3, 4], [0.5, 5]), rows([3, 4], [0, 5]))
    assert (agreement.difference, agreement.largest) == (0.5, 5)
    assert (agreement.equal, agreement.examples) == (1, 2)
    assert agreement.median_difference == 0.25
    assert agreement.error == pytest.approx(0.05)
    assert agreement.top1 is None
    assert 'equal except for rounding on 1 of 2' in str(agreement)


def test_rounding_is_relative_to_the_largest_value():
    theirs = rows([200, 0], [1, 0])
    ours = rows([200, 200 * ROUNDING], [1, 201 * ROUNDING])
    assert compare('y', ours, theirs).equal == 1


@pytest.mark.parametrize('name', ['logits', 'scores'])
def test_labels_of_scores(name):
    theirs = [np.float32([[[0, 1], [2, 3]]]), np.float32([[[5, 4], [6, 7]]])]
    ours = [theirs[0], theirs[1][..., ::-1]]
    agreement = compare(name, ours, theirs)
    assert agreement.top1 == 0.5
    assert str(agreement).endswith('top-1 agrees for 50.00 %')


def test_examples_of_several_sizes():
    theirs = [np.ones((n, 3), np.float32) for n in (2, 1, 0)]
    agreement = compare('logits', theirs, theirs)
    assert (agreement.equal, agreement.top1, agreement.difference) == (3, 1, 0)


@pytest.mark.parametrize('shape', [(1, 1), (1, 3), (4,)])
def test_an_output_of_another_shape(shape):
    theirs, ours = [[np.ones((1, 4), np.float32)]] * 2, [[np.ones(shape, np.float32)]] * 2
    with pytest.raises(ExportError, match=r'Engine disagrees .*: y has the shape .* \(1, 4\);'):
        compare_all('Engine', ['y'], ours, theirs)


def test_an_output_that_is_another_one_is_named():
    theirs = [[np.float32([1]), np.float32([i])] for i in (1, 2, 3)]
    few = [[np.float32([1]), np.float32([i])] for i in (1, 2, 9)]
    agreements = compare_all('Engine', ['a', 'b'], few, theirs)
    assert [(one.name, one.equal) for one in agreements] == [('a', 3), ('b', 2)]
    most = [[np.float32([1]), np.float32([i])] for i in (1, 3, 9)]
    with pytest.raises(ExportError, match='Engine disagrees with torch: b: differs'):
        compare_all('Engine', ['a', 'b'], most, theirs)


def test_numbers_that_are_none_do_not_agree():
    with pytest.raises(ExportError, match='disagrees'):
        compare_all('Engine', ['a'], [[np.float32([np.nan])]], [[np.float32([1])]])


def regions(count=6, classes=3):
    """Return boxes and scores of one image."""
    random = np.random.default_rng(0)
    return [
        random.uniform(0, 500, (1, count, classes, 4)),
        random.uniform(0, 1, (1, count, classes)),
    ]


def test_the_order_of_regions_does_not_count():
    theirs = regions()
    order = [2, 0, 1, 5, 4, 3]
    ours = [x[:, order] for x in theirs]
    for x, y in zip(in_order_of(theirs, ours), theirs):
        np.testing.assert_array_equal(x, y)
    found = compare_all('X', ['boxes', 'scores'], [ours], [theirs], unordered=True)
    assert [one.difference for one in found] == [0, 0]
    with pytest.raises(ExportError, match='X disagrees with torch: boxes'):
        compare_all('X', ['boxes', 'scores'], [ours], [theirs])


def test_scores_tell_regions_of_equal_boxes_apart():
    theirs = regions()
    theirs[0][:, 1] = theirs[0][:, 0]
    ours = [x[:, ::-1] for x in theirs]
    np.testing.assert_array_equal(in_order_of(theirs, ours)[1], theirs[1])


def test_other_regions_are_no_agreement():
    theirs, ours = regions(), [x / 3 for x in regions()]
    with pytest.raises(ExportError, match='X disagrees with torch: boxes'):
        compare_all('X', ['boxes', 'scores'], [ours], [theirs], unordered=True)
