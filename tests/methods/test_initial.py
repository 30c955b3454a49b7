"""Images that experts classify correctly, on masks made by hand, and the logits that learned labels start from."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.draws import generator
from trajmatch.methods.initial import correct_images, label_logits

# Classes interleaved: image i has label i % 3, ten of each.
LABELS = torch.arange(30) % 3


def chosen(masks: list[Tensor], ipc: int, seed: int = 0, num_classes: int = 3) -> list[list[int]]:
    """The indices of each class."""
    found = correct_images(masks, LABELS, num_classes, ipc, generator(seed, "test"))
    assert found.dtype == torch.int64
    assert found.shape == (num_classes * ipc,)
    return found.view(num_classes, ipc).tolist()


def right_on(*images: int) -> Tensor:
    mask = torch.zeros(30, dtype=torch.bool)
    mask[list(images)] = True
    return mask


EVERYTHING, NOTHING = right_on(*range(30)), right_on()


def test_indices_are_by_class_and_every_one_is_right() -> None:
    right = right_on(0, 3, 6, 9, 1, 4, 7, 2, 5, 8, 11, 14)
    for seed in range(20):
        found = chosen([right], 3, seed)
        for label, images in enumerate(found):
            assert len(set(images)) == 3
            assert all(image % 3 == label and bool(right[image]) for image in images)


def test_the_order_is_random_and_a_function_of_the_generator() -> None:
    draws = [chosen([EVERYTHING], 4, seed) for seed in range(60)]
    assert draws[7] == chosen([EVERYTHING], 4, 7)
    assert draws[0] != draws[1]
    for label in range(3):
        firsts = [draw[label][0] for draw in draws]
        assert set(firsts) == {image for image in range(30) if image % 3 == label}  # each of ten in sixty draws
        assert any(draw[label] != sorted(draw[label]) for draw in draws)
    # Classes have orders of their own.
    assert any([image // 3 for image in draw[0]] != [image // 3 for image in draw[1]] for draw in draws)


def test_what_an_expert_gets_wrong_leaves_the_order_of_the_others() -> None:
    free = chosen([EVERYTHING], 10)
    mask = right_on(*(image for image in range(30) if image != free[1][0]))
    assert chosen([mask], 9)[1] == free[1][1:]


def test_the_first_expert_comes_first_and_the_next_ones_fill_up() -> None:
    first, second, third = right_on(0, 3, 1, 2, 5), right_on(0, 6, 4, 2, 8), right_on(*range(30))
    for seed in range(10):
        zeros, ones, twos = chosen([first, second, third], 4, seed)
        assert set(zeros[:2]) == {0, 3}
        assert zeros[2] == 6  # image 0 again is not new
        assert zeros[3] not in (0, 3, 6)
        assert ones[:2] == [1, 4]
        assert len(set(ones)) == 4
        assert set(twos[:2]) == {2, 5}
        assert twos[2] == 8
        assert len({*zeros, *ones, *twos}) == 12


def test_an_image_that_several_experts_get_right_is_taken_once() -> None:
    mask = right_on(0, 1, 2)
    with pytest.raises(ValueError, match="only 1 images"):
        chosen([mask, mask, mask], 2)


def test_a_class_that_is_full_takes_nothing_from_later_experts() -> None:
    first = right_on(0, 1, 4, 2, 5)  # class 0 is one short
    zeros, ones, twos = chosen([first, EVERYTHING], 2)
    assert zeros[0] == 0
    assert (set(ones), set(twos)) == ({1, 4}, {2, 5})


def lazily(*masks: Tensor, asked: list[int]) -> Iterator[Tensor]:
    for number, mask in enumerate(masks):
        asked.append(number)
        yield mask


@pytest.mark.parametrize(("masks", "wanted"), [((EVERYTHING, NOTHING), [0]), ((NOTHING, EVERYTHING, NOTHING), [0, 1])])
def test_experts_are_asked_only_as_long_as_a_class_is_short(masks: tuple[Tensor, ...], wanted: list[int]) -> None:
    asked: list[int] = []
    correct_images(lazily(*masks, asked=asked), LABELS, 3, 10, generator(0, "test"))
    assert asked == wanted


@pytest.mark.parametrize(
    ("masks", "ipc", "says"),
    [
        ([right_on(*range(0, 30, 3), *range(1, 30, 3), 2, 5)], 3, "only 2 images of class number 2 .* asks for 3"),
        ([right_on(0, 3, 6, 2, 5, 8), right_on(1, 0, 2)], 3, "only 1 images of class number 1 .* asks for 3"),
        ([right_on(0, 1, 2, 4, 5), right_on(7, 8)], 3, "only 1 images of class number 0 .* asks for 3"),
        ([NOTHING, NOTHING], 1, "only 0 images of class number 0 .* asks for 1"),
        ([EVERYTHING], 11, "only 10 images of class number 0 .* asks for 11"),
        ([], 1, "only 0 images"),
    ],
)
def test_a_class_that_stays_short_is_named_with_its_count(masks: list[Tensor], ipc: int, says: str) -> None:
    with pytest.raises(ValueError, match=rf"--outer\.initial is correct.*{says}.*or start from real images"):
        chosen(masks, ipc)


def test_logits_are_averaged_over_the_experts_that_are_right() -> None:
    logits = torch.tensor(
        [
            [[5.0, 1.0, 0.0], [0.0, 2.0, 1.0], [4.0, 0.0, 1.0]],
            [[3.0, 2.0, 1.0], [9.0, 2.0, 1.0], [0.0, 1.0, 0.0]],
            [[0.0, 1.0, 7.0], [0.0, 4.0, 5.0], [2.0, 0.0, 0.0]],
        ]
    )
    labels = torch.tensor([0, 1, 2])
    # Image 0: the first two are right. Image 1: the first. Image 2: nobody, so all.
    wanted = torch.tensor([[4.0, 1.5, 0.5], [0.0, 2.0, 1.0], [2.0, 1 / 3, 1 / 3]])
    assert relative_error(label_logits(logits, labels), wanted) < 1e-6


def test_one_expert_is_believed_right_or_wrong() -> None:
    logits = random(1, 6, 3, seed=1)
    found = label_logits(logits, torch.arange(6) % 3)
    assert found.dtype == F64
    assert torch.equal(found, logits[0])


def test_all_right_is_the_plain_mean_whatever_the_order_of_the_experts() -> None:
    labels = torch.arange(6) % 3
    logits = random(4, 6, 3, seed=2) + 20 * torch.eye(3, dtype=F64)[labels]
    assert relative_error(label_logits(logits, labels), logits.mean(0)) < 1e-12
    mixed = random(4, 6, 3, seed=3)
    assert relative_error(label_logits(mixed.flip(0), labels), label_logits(mixed, labels)) < 1e-12
    assert relative_error(label_logits(mixed, labels), mixed.mean(0)) > 0.1
