"""A runner gives threads the same results as sequential calls."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from mmesbnn.deploy import Runner
from tests.deploy.runtime.test_runner import crops

pytest.importorskip('openvino')

from tests.deploy import exports

THREADS = 8


def together(jobs):
    """Return the results of jobs that start at once, each in its thread."""
    barrier = Barrier(len(jobs))

    def begin(job):
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(begin, job) for job in jobs]]


def scores(results):
    return np.stack([result['pred_scores'] for result in results])


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classifier')
    exports.write_classifier(folder)
    return folder


def test_each_thread_gets_the_results_of_its_images(classifier):
    runner = Runner(classifier, threads=2)
    images = crops(40)
    expected = scores(map(runner, images))
    # different for each image, so that a mixed-up result is found
    assert len(np.unique(expected, axis=0)) == len(images)
    parts = [range(start, len(images), THREADS) for start in range(THREADS)]

    def classify(part):
        return lambda: [scores([runner(images[i]) for i in part]) for _ in range(40)]

    for part, rounds in zip(parts, together([classify(part) for part in parts])):
        for found in rounds:
            np.testing.assert_array_equal(found, expected[list(part)])


def test_calls_batches_and_streams_beside_each_other(classifier):
    runner = Runner(classifier, threads=2)
    images = crops(24)
    expected = scores(map(runner, images))
    runner = Runner(classifier, threads=2)  # compiles for each size while other threads wait
    ways = [
        lambda: scores(map(runner, images)),
        lambda: scores(runner(images, batch_size=5)),
        lambda: scores(runner.stream(images, 2)),
        lambda: scores(runner.stream(images, 5, jobs=3)),
    ]
    for found in together(ways * (THREADS // len(ways))):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_outputs_are_not_overwritten_by_the_next_call(classifier):
    runner = Runner(classifier, threads=1)
    arrays = [runner.preprocess(image)[0][None] for image in crops(2)]
    first = runner.infer(arrays[0])['logits']
    before = first.copy()
    assert (runner.infer(arrays[1])['logits'] != before).any()
    np.testing.assert_array_equal(first, before)


def test_detectors_and_upscalers(tmp_path):
    exports.write_detector(tmp_path / 'detector')
    exports.write_denoiser(tmp_path / 'denoiser')
    detector = Runner(tmp_path / 'detector', threads=2)
    upscaler = Runner(tmp_path / 'denoiser', threads=2)
    images = crops(THREADS, (40, 60))
    small = [image[:8, :8] for image in images]
    boxes = [detector(image)['bboxes'] for image in images]
    large = [upscaler.upscale(image, seed=1, steps=3) for image in small]

    def both(i):
        def job():
            for _ in range(10):
                np.testing.assert_array_equal(detector(images[i])['bboxes'], boxes[i])
            return upscaler.upscale(small[i], seed=1, steps=3)

        return job

    for found, expected in zip(together([both(i) for i in range(THREADS)]), large):
        np.testing.assert_array_equal(found, expected)
