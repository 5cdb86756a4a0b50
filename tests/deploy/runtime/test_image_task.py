"""Results of images as values for JSON."""

import json

import numpy as np
import pytest

pytest.importorskip('openvino')

from mmesbnn.deploy import Runner
from mmesbnn.deploy.runtime.image_task import as_json
from mmesbnn.deploy.runtime.network import Network
from mmesbnn.deploy.runtime.task import Options
from tests.deploy import exports


def strict(values):
    return json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (0.1, 0.1),
        (float('nan'), None),
        (np.float32([[0.5, np.inf], [-np.inf, np.nan]]), [[0.5, None], [None, None]]),
        (np.array([3, -1]), [3, -1]),
        (np.zeros((0, 4), np.float32), []),
    ],
)
def test_numbers_that_json_lacks(value, expected):
    assert as_json(value) == expected
    strict(as_json(value))


def test_results_that_are_not_numbers(tmp_path):
    exports.write_classifier(tmp_path / 'a')
    exports.write_detector(tmp_path / 'b')
    image = np.zeros((32, 48, 3), np.uint8)
    runner = Runner(tmp_path / 'a', threads=1)
    result = {**runner(image), 'pred_score': float('nan')}
    result['pred_scores'] = np.float32([np.nan, np.inf, 0])
    values = runner.describe(result)[1]
    assert (values['pred_score'], values['pred_scores']) == (None, [None, None, 0])
    strict(values)
    runner = Runner(tmp_path / 'b', threads=1)
    result = runner(image)
    result['bboxes'][0, 2] = np.inf
    values = runner.describe(result)[1]
    assert values['bboxes'][0][2] is None
    strict(values)


def test_a_batch_has_no_more_images_than_there_are(tmp_path, monkeypatch):
    exports.write_classifier(tmp_path)
    sizes, infer_many = [], Network.infer_many

    def looking(network, batches, batch_size, jobs):
        sizes.append(batch_size)
        return infer_many(network, batches, batch_size, jobs)

    monkeypatch.setattr(Network, 'infer_many', looking)
    images = [np.full((16, 16, 3), i, np.uint8) for i in range(3)]
    for chosen in (2, 3, 2**40):
        found = Runner(tmp_path, threads=1).results(images, Options(batch_size=chosen))
        assert len(list(found)) == 3
        assert len(list(Runner(tmp_path, threads=1).stream(iter(images), chosen))) == 3
    assert sizes == [2, 2, 3, 3, 3, 3]
