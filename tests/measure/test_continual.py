"""The class-incremental stream: orders, parts of a data set, labels among all classes."""

import pytest
import torch

from trajmatch.data.images import Dataset, Images
from trajmatch.measure.continual import band, beside_old, class_steps, memory_of, of_classes, passes, widened


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


def test_old_classes_stand_behind_the_new_with_test_images_alone() -> None:
    y = torch.tensor([0, 1, 2, 3, 1, 3])
    images = Images(torch.arange(6).view(6, 1, 1, 1).to(torch.uint8), y)
    found = beside_old(Dataset("d", ("a", "b", "c", "e"), images, images, images), [3, 1], [0])
    assert found.classes == ("e", "b", "a")
    assert found.train.x.flatten().tolist() == found.validation.x.flatten().tolist() == [1, 3, 4, 5]
    assert found.train.y.tolist() == [1, 0, 1, 0]
    assert found.test.x.flatten().tolist() == [0, 1, 3, 4, 5]
    assert found.test.y.tolist() == [2, 1, 0, 1, 0]


def test_a_memory_has_its_labels_among_the_classes_asked_for() -> None:
    first = [5, 2], torch.zeros(1, 1, 1, 1), torch.tensor([[0.7, 0.3]])
    second = [4, 5, 2], torch.ones(2, 1, 1, 1), torch.tensor([[1.0, 0, 0], [0.5, 0.3, 0.2]])
    X, Y = memory_of([first, second], [2, 4, 5])
    assert X.flatten().tolist() == [0, 1, 1]
    assert torch.equal(Y, torch.tensor([[0.3, 0, 0.7], [0, 1, 0], [0.2, 0.5, 0.3]]))


def test_kept_images_are_seen_as_often_as_the_weight_says() -> None:
    assert passes(5000, 10, 1.0) == 500  # each class is seen equally often
    assert passes(5000, 10, 0.25) == 125
    assert passes(500, 3, 0.5) == 83
    assert passes(20, 10, 0.01) == 1


def test_a_band_by_hand() -> None:
    # Deviations of 0.1 from the mean: the population's standard deviation is 0.1, a sample's would be 0.1414.
    assert band([[1.0, 0.5], [1.0, 0.7]]) == [(1.0, 0.0), (pytest.approx(0.6), pytest.approx(0.1))]
    assert band([[0.3]]) == [(0.3, 0.0)]
