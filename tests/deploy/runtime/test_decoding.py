"""Decoding equals torch, torchvision and formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.deploy import ExportError
from mmesbnn.deploy.runtime.decoding import classify, detect, overlap, suppress
from mmesbnn.deploy.runtime.detection_decoding import DetectionDecoding, FinalBoxes

RNG = np.random.default_rng(0)


def random_boxes(count):
    corners = RNG.uniform(0, 50, (count, 2))
    return np.hstack([corners, corners + RNG.uniform(1, 30, (count, 2))])


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid', None])
def test_scores(activation):
    logits = np.float32([3, -200, 200, 0])
    expected = getattr(torch, activation or 'clone')(
        torch.from_numpy(logits), *([0] if activation == 'softmax' else [])
    )
    result = classify(logits, activation, None)
    np.testing.assert_allclose(result['pred_scores'], expected, rtol=1e-6)
    assert result['pred_label'] == 2
    assert 'pred_class' not in result


@given(st.integers(0, 40), st.floats(0.05, 0.95))
def test_suppression_is_torchvisions(count, iou_thr):
    from torchvision.ops import box_iou, nms

    boxes = random_boxes(count)
    tensor = torch.from_numpy(boxes)
    falling = torch.arange(count, 0, -1, dtype=torch.float64)
    assert suppress(boxes, iou_thr) == nms(tensor, falling, iou_thr).tolist()
    if count:
        np.testing.assert_allclose(overlap(boxes[0], boxes), box_iou(tensor[:1], tensor)[0])


def decode(outputs, size=(60, 60), original=(120, 30), **settings):
    default = dict(score_thr=0.5, iou_thr=0.5, max_per_image=100)
    decoding = DetectionDecoding.from_dict({**default, **settings})
    return detect(outputs, decoding, None, size, original)


def test_boxes_of_every_class_and_scaling():
    boxes = np.float32([[[0, 0, 10, 10], [20, 20, 90, 40]]])
    result = decode(dict(boxes=boxes, scores=np.float32([[0.6, 0.9]])))
    # clipped to 60, doubled in height and halved in width, best first
    assert result['bboxes'].tolist() == [[10, 40, 30, 80], [0, 0, 5, 20]]
    assert result['labels'].tolist() == [1, 0]
    assert 'classes' not in result


def test_only_the_same_class_suppresses():
    boxes = np.float32([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 9]])
    scores = np.float32([[0.9, 0], [0.8, 0], [0, 0.7]])
    result = decode(dict(boxes=boxes, scores=scores))
    assert result['scores'].tolist() == np.float32([0.9, 0.7]).tolist()
    assert len(decode(dict(boxes=boxes, scores=scores), max_per_image=1)['labels']) == 1
    for most in (-1, 0):  # all
        assert len(decode(dict(boxes=boxes, scores=scores), max_per_image=most)['labels']) == 2


def test_best_pairs_of_every_level():
    boxes = np.float32([[10 * i, 0, 10 * i + 5, 5] for i in range(6)])
    scores = np.float32([[0.6], [0.7], [0.8], [0.9], [0.95], [0.4]])
    outputs = dict(boxes=boxes, scores=scores)
    result = decode(outputs, levels=[3, 3], nms_pre=1)
    assert result['scores'].tolist() == np.float32([0.95, 0.8]).tolist()
    assert len(decode(outputs)['scores']) == 5


def test_factors_count_once_scores_are_chosen():
    boxes = np.float32([[10 * i, 0, 10 * i + 5, 5] for i in range(4)])
    outputs = dict(
        boxes=boxes,
        scores=np.float32([[0.6], [0.7], [0.8], [0.4]]),
        factors=np.float32([1, 0.5, 0.125, 1]),
    )
    result = decode(outputs, levels=[4], nms_pre=2)
    np.testing.assert_allclose(result['scores'], [0.35, 0.1])
    assert result['bboxes'][:, 0].tolist() == [5, 10]


def test_best_of_every_class():
    boxes = np.float32([[10 * i, 0, 10 * i + 5, 5] for i in range(4)])
    scores = np.float32([[0.6, 0.9], [0.7, 0], [0.8, 0], [0, 0]])
    result = decode(dict(boxes=boxes, scores=scores), max_per_class=2)
    assert result['scores'].tolist() == np.float32([0.9, 0.8, 0.7]).tolist()
    assert result['labels'].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ('border', 'expected'), [(0, [0, 6, 60, 60]), (1, [0, 6, 59, 59]), (None, [-5, 6, 70, 80])]
)
def test_where_boxes_end(border, expected):
    outputs = dict(boxes=np.float32([[-5, 6, 70, 80]]), scores=np.float32([[0.9]]))
    result = decode(outputs, original=(60, 60), border=border)
    assert result['bboxes'].tolist() == [expected]


def test_small_boxes_are_dropped_if_asked_for():
    # the second lies outside the image, which is half as large as the input
    boxes = np.float32([[0, 0, 10, 10], [60, 0, 70, 10], [0, 0, 4, 60]])
    outputs = dict(boxes=boxes, scores=np.float32([[0.7], [0.9], [0.8]]))
    for least, expected in {-1: [1, 2, 0], 0: [2, 0], 2: [0], 5: []}.items():
        result = decode(outputs, original=(30, 30), min_size=least)
        rows = [[0, 0, 5, 5], [30, 0, 30, 5], [0, 0, 2, 30]]
        assert result['bboxes'].tolist() == [rows[i] for i in expected]


def test_without_a_least_size_exchanged_ends_stay():
    boxes = np.float32([[10, 10, 4, 20], [30, 30, 40, 40]])  # its width is -6
    outputs = dict(boxes=boxes, scores=np.float32([[0.9], [0.8]]))
    for least, count in ((-1, 2), (0, 1)):
        result = decode(outputs, original=(60, 60), min_size=least)
        assert len(result['bboxes']) == count


def test_nothing_found():
    outputs = dict(boxes=np.zeros((2, 4), np.float32), scores=np.zeros((2, 3)))
    result = decode(outputs)
    assert result['bboxes'].shape == (0, 4)
    assert result['labels'].shape == (0,)


def test_results_that_are_final():
    outputs = dict(
        boxes=np.float32([[0, 0, 60, 30], [0, 0, 1, 1]]),
        scores=np.float32([0.9, 0]),
        labels=np.int64([4, -1]),
    )
    result = detect(outputs, FinalBoxes(final=True), list('abcde'), (60, 60), (120, 30))
    assert result['bboxes'].tolist() == [[0, 0, 30, 60]]
    assert result['classes'] == ['e']


def test_outputs_that_the_manifest_does_not_describe():
    with pytest.raises(ExportError, match=r'3 classes, .* 2 names'):
        classify(np.zeros(3), None, ['a', 'b'])
    outputs = dict(boxes=np.zeros((5, 4)), scores=np.ones((5, 2)))
    with pytest.raises(ExportError, match=r'5 boxes, .* 4'):
        decode(outputs, levels=[2, 2], nms_pre=1)
    final = dict(boxes=np.zeros((1, 4)), scores=np.ones(1), labels=np.array([7]))
    with pytest.raises(ExportError, match=r'8 classes, .* 1 names'):
        detect(final, FinalBoxes(final=True), ['a'], (60, 60), (60, 60))
