"""The class-incremental stream: orders, parts of a data set, labels among all classes."""

import pytest
import torch

from trajmatch.data.images import Dataset, Images
from trajmatch.measure.continual import band, class_steps, of_classes, widened


def test_orders_are_permutations_of_all_classes_in_equal_parts() -> None:
    orders = [class_steps(10, 5, 3, k) for k in range(20)]
    for order in orders:
        assert [len(group) for group in order] == [2] * 5
        assert sorted(label for group in order for label in group) == list(range(10))
    assert len({str(order) for order in orders}) > 15
    assert class_steps(10, 5, 3, 7) == orders[7]
    assert class_steps(10, 5, 4, 7) != orders[7]
    with pytest.raises(ValueError, match="--class-steps is 3 and must divide the 10 classes"):
        class_steps(10, 3, 0, 0)


def test_a_part_of_a_data_set_is_renumbered_in_the_given_order() -> None:
    y = torch.tensor([0, 1, 2, 3, 1, 3])
    images = Images(torch.arange(6).view(6, 1, 1, 1).to(torch.uint8), y)
    found = of_classes(Dataset("d", ("a", "b", "c", "e"), images, images, images), [3, 1])
    assert found.classes == ("e", "b")
    assert found.train.x.flatten().tolist() == [1, 3, 4, 5]
    assert found.test.y.tolist() == [1, 0, 1, 0]


def test_labels_find_their_place_among_all_classes() -> None:
    Y = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert torch.allclose(widened(Y, [3, 0], 4), torch.tensor([[0.1, 0, 0, 0.9], [0.8, 0, 0, 0.2]]))


def test_a_band_by_hand() -> None:
    # Deviations of 0.1 from the mean: the population's standard deviation is 0.1, a sample's would be 0.1414.
    assert band([[1.0, 0.5], [1.0, 0.7]]) == [(1.0, 0.0), (pytest.approx(0.6), pytest.approx(0.1))]
    assert band([[0.3]]) == [(0.3, 0.0)]
