"""Thresholds of the quantiser, for sums that were taken elsewhere."""

import numpy as np

from xwalloc.models import quantise as q


def test_rises_are_those_of_quantise_planes():
    rng, quantum = np.random.default_rng(0), 50.0
    latents = np.rint(rng.laplace(size=(2, 3, 1, 8, 12)) * np.array([200.0, 40.0, 3.0])[:, None, None, None])
    boxes = np.array([[0, 1, 0, 8, 0, 6], [0, 1, 0, 8, 6, 12]])
    guesses = [[[q.magnitude_sum(plane, box, quantum) for box in boxes] for plane in item] for item in latents]
    rises = np.empty((3, 2))
    q.rises(np.array(guesses, np.int64), np.array([96, 96]), rises)
    assert np.isinf(rises[2]).all()
    for k in range(3):
        symbols = np.empty(latents.shape, np.int32)
        q.quantise_planes(latents, k, boxes, quantum, symbols, np.zeros((2, 8), np.int64))
        rise = np.repeat(rises[k], 6)
        expected = np.sign(latents[:, k]) * np.maximum(np.floor(np.abs(latents[:, k]) * (1.0 / quantum) + rise), 0)
        assert np.array_equal(symbols[:, k], expected)
