"""Drawn results show the right things at the right places."""

import numpy as np
import pytest

from mmesbnn.deploy.runtime.drawing import colour_of, draw_boxes, draw_labels

GREY = np.full((200, 300, 3), 128, np.uint8)


def changed(image, reference=GREY):
    return (np.asarray(image) != reference).any(-1)


def test_boxes_lie_where_they_were_found():
    result = dict(
        bboxes=np.float32([[20, 60, 120, 160], [200, 20, 280, 90]]),
        scores=np.float32([0.9, 0.2]),
        labels=np.array([2, 0]),
    )
    image = draw_boxes(GREY, result)
    found = np.asarray(image)
    assert tuple(found[160, 70]) == tuple(found[110, 120]) == colour_of(2)
    assert tuple(found[120, 90]) == (128, 128, 128)
    assert not changed(image)[:, 200:].any()  # 0.2 is below the threshold
    assert changed(draw_boxes(GREY, result, score_thr=0.1))[:, 200:].any()
    # names take more room than numbers
    named = draw_boxes(GREY, result, ['a', 'b', 'a long name'])
    assert changed(named).sum() > changed(image).sum()


def test_small_images_are_enlarged():
    small = np.full((8, 10, 3), 128, np.uint8)
    result = dict(bboxes=[[1, 1, 5, 6]], scores=[1.0], labels=[1])
    image = draw_boxes(small, result)
    assert image.size == (200, 160)
    assert image.getpixel((100, 80)) == colour_of(1)
    assert draw_labels(small, dict(pred_scores=np.ones(1))).size == (200, 160)


def test_long_lines_are_not_enlarged_without_bound():
    line = np.full((1, 200_000, 3), 128, np.uint8)
    assert draw_labels(line, dict(pred_scores=np.ones(1))).size == (800_000, 4)
    large = np.full((3000, 2, 3), 128, np.uint8)
    assert draw_labels(large, dict(pred_scores=np.ones(1))).size == (52, 78_000)


def test_boxes_that_no_image_holds():
    boxes = [[np.nan, 0, 5, 5], [0, 0, np.inf, 5], [-1e30, -1e30, 1e30, 1e30]]
    result = dict(bboxes=np.float32(boxes), scores=[1.0, 1.0, 0.9], labels=[1, 1, 2])
    assert not changed(draw_boxes(GREY, result)).any()


@pytest.mark.parametrize('count', [1, 3])
def test_labels_are_written_best_first(count):
    scores = np.float32([0.1, 0.2, 0.7])
    image = draw_labels(GREY, dict(pred_scores=scores), count=count)
    colours = {tuple(c) for c in np.asarray(image).reshape(-1, 3)}
    assert colour_of(2) in colours
    assert (colour_of(0) in colours) == (count == 3)
    rows = {
        label: np.nonzero((np.asarray(image) == colour_of(label)).all(-1))[0] for label in (2, 0)
    }
    if count == 3:
        assert rows[2].max() < rows[0].min()
