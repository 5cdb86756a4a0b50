"""Precision-recall curves of detections and their picture."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
pytest.importorskip('matplotlib')

from mmesbnn.plots.detection_curves import draw_detections, precision_recall

BOX, FAR = [10.0, 10, 30, 30], [50.0, 50, 80, 90]
NOTHING = np.zeros((0, 5))


def truth(boxes, labels, ignored=()):
    return dict(
        bboxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=int),
        bboxes_ignore=np.array(ignored, dtype=np.float32).reshape(-1, 4),
        labels_ignore=np.zeros(len(ignored), dtype=int),
    )


def rows(*boxes_and_scores):
    return np.array([[*box, score] for box, score in boxes_and_scores], np.float32)


def test_curves_of_a_case_done_by_hand():
    # by falling score: right, wrong, right; three objects
    detections = [[rows((BOX, 0.9), (FAR, 0.8)), NOTHING], [rows((FAR, 0.7)), NOTHING]]
    boxes = [truth([BOX], [0]), truth([FAR, BOX], [0, 0])]
    result = precision_recall(detections, boxes, ('a', 'b'))
    np.testing.assert_allclose(result['a']['recall'], [1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(result['a']['precision'], [1, 1 / 2, 2 / 3])
    # recalls 0 to 0.3: precision 1; 0.4 to 0.6: 2/3; above: 0
    assert result['a']['ap'] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert result['b']['num_gts'] == 0


def test_difficult_objects_count_neither_way():
    detections = [[rows((FAR, 0.9), (BOX, 0.8))]]
    result = precision_recall(detections, [truth([BOX], [0], [FAR])], ('a',))
    assert result['a']['ap'] == pytest.approx(1)


def test_picture_is_written_whole(tmp_path):
    image = np.zeros((64, 96, 3), np.uint8)
    curve = precision_recall([[rows((BOX, 0.9))]], [truth([BOX], [0])], ('a',))
    path = tmp_path / 'folder' / 'picture.png'
    draw_detections(
        [(image, [(BOX, 'a', 0.9)]), (image, [])], {'ES': curve, 'tau = 1': curve}, path, 'title'
    )
    assert [p.name for p in path.parent.iterdir()] == ['picture.png']
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    assert picture.shape[1] > 1000
    lime = (picture == [0, 255, 0]).all(-1)
    assert lime.sum() > 100
