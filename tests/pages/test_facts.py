"""What a summary says in words: facts with units, and whether a set carries over to another network."""

from typing import Any

import pytest

from trajmatch.pages.facts import carried, facts, result, sayings
from trajmatch.pages.tables import score_lines, set_title


def score(mean: float, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "std": 0.01, "n": 3, **more}


def scores(own: float, there: float, random: float | None) -> dict[str, Any]:
    found = {"distilled": score(own), "foreign": score(there, network="lenet")}
    return found if random is None else {**found, "foreign random": score(random, network="lenet")}


@pytest.mark.parametrize(
    ("own", "there", "random", "carries", "says"),
    [
        (0.5, 0.3, 0.2, True, "carries over: on lenet, for which it was not made, it reaches 30.0% (20.0% from"),
        (0.5, 0.3, None, True, "carries over: on lenet, for which it was not made, it reaches 30.0%, on its own"),
        (0.5, 0.12, None, False, "does not carry over"),
        (0.5, 0.12, 0.3, False, "chance is 10.0%."),
        (0.5, 0.12, 0.13, False, "not shown to carry over"),  # what no image teaches says nothing of the set
        (0.5, 0.3, 0.35, False, "random real images are as good there"),
    ],
)
def test_whether_a_set_carries_over(own: float, there: float, random: float | None, carries: bool, says: str) -> None:
    found = carried(scores(own, there, random), 10)
    assert found is not None
    assert found[0] is carries
    assert says in found[1]


def test_nothing_is_said_of_a_network_that_was_not_trained() -> None:
    assert carried({"distilled": score(0.5)}, 10) is None
    assert carried(scores(0.5, 0.3, 0.2), None) is None


def test_chance_is_that_of_the_number_of_classes() -> None:
    of_two, of_ten = (carried(scores(0.9, 0.55, 0.5), classes) for classes in (2, 10))
    assert of_two is not None
    assert of_ten is not None
    assert (of_two[0], of_ten[0]) == (False, True)


SUMMARY: dict[str, Any] = {
    "dataset": "birds", "method": "satm", "ipc": 1, "steps": 1, "step_size": 0.0123, "classes": ["a", "b"], "seed": 3,
    "synthetic_images": 2, "whole_images": 1294, "shape": [3, 24, 32], "network": "vit", "distillation_seed": 7,
    "seconds": {"read": 0.44, "experts": 30.0, "distill": 3600.0}, "factor": 2,
    "accuracy": {"distilled": score(0.7), "random": score(0.4), "whole": score(0.8, epochs=6)},
}  # fmt: skip


def test_facts_have_units_and_what_is_not_known_is_left_out() -> None:
    found = dict(facts(SUMMARY))
    assert found == {
        "data": "birds: 1,294 training images of 2 classes",
        "image size": "32 x 24 pixels, colour",
        "synthetic set": "2 images, 1 per class, each cut into 2 x 2 tiles, which a network sees as 4 images",
        "network": "vit",
        "method": "SATM, 1 outer step, learned step size 0.0123 (a learning rate, without unit)",
        "total time": "1:00 h: reading 0.4 s, experts 30 s, distilling 1:00 h",
        "seed": "3; 7 for the distillation",
    }
    old = {key: SUMMARY[key] for key in ("dataset", "method", "ipc", "seconds", "accuracy")}
    assert set(dict(facts(old))) == {"data", "synthetic set", "method", "total time"}


def test_the_whole_data_set_is_told_with_its_epochs() -> None:
    assert "1,294 real images to 80.0% ± 1.0% (n = 3) in 6 epochs" in result(SUMMARY)
    assert any("for 6 epochs: their accuracy is no ceiling" in one for one in sayings(SUMMARY))
    assert set_title("whole", score(0.8, epochs=1)) == "whole dataset, 1 epoch"
    assert set_title("whole", score(0.8)) == "whole dataset"
    old = {**SUMMARY, "accuracy": {"distilled": score(0.7), "whole": score(0.8)}}
    assert "epoch" not in result(old) + " ".join(sayings(old))


def test_lines_name_the_other_network() -> None:
    lines = score_lines(scores(0.5, 0.3, 0.2))
    assert [line.split("  ")[1].strip() for line in lines] == [
        "distilled, last iterate", "distilled, on lenet", "random real images, on lenet",
    ]  # fmt: skip
