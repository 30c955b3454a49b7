"""Nearest images, against a plain loop."""

import torch

from tests.oracles import random
from trajmatch.measure.nearest import nearest


def test_the_nearest_by_a_plain_loop() -> None:
    images, real = random(5, 2, 3, 3, seed=1), random(23, 2, 3, 3, seed=2)
    distance, index = nearest(images, real, chunk=7)
    for k, image in enumerate(images):
        every = [float((image - other).square().mean().sqrt()) for other in real]
        assert int(index[k]) == every.index(min(every))
        assert abs(float(distance[k]) - min(every)) < 1e-12


def test_a_copy_is_at_distance_zero() -> None:
    real = random(10, 3, 4, 4, seed=3).float()
    distance, index = nearest(real[[7, 2]].clone(), real, chunk=4)
    assert distance.tolist() == [0.0, 0.0]
    assert index.tolist() == [7, 2]
    assert nearest(real[:1] + 0.5, real)[0] > torch.tensor(0.1)
