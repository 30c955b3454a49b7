"""What images decide where nobody else does: it fits together, for any number of images, and what is given is taken."""

from math import ceil

import pytest

from trajmatch.settings.checks import resolve
from trajmatch.settings.choices import (
    CLASSES,
    IPC,
    MOST_EPOCHS,
    OPEN,
    STRETCH,
    Choice,
    Left,
    by_number,
    by_size,
    chosen,
    left_open,
)
from trajmatch.settings.command_line import settings_of
from trajmatch.settings.config import Config
from trajmatch.settings.kinds import with_setting
from trajmatch.settings.presets import preset

IMAGES = preset("images")


def settled(config: Config, given: tuple[str, ...], images: int, classes: int = 10) -> Config:
    config = chosen(config, by_size(config, left_open(given), 64))
    return resolve(chosen(config, by_number(config, left_open(given), images, classes, config.images.size or 64)))


@pytest.mark.parametrize("images", [2, 63, 64, 65, 240, 4050, 45_000, 1_000_000])
def test_segments_fit_into_experts_and_are_as_long_as_a_student_needs(images: int) -> None:
    config = settled(IMAGES, (), images)
    steps = config.expert.epochs * ceil(images / config.expert.batch)
    assert config.expert.save_every is not None
    m, rows = config.matching, steps // config.expert.save_every
    assert m.last_epoch - 1 + m.expert_epochs <= rows
    wanted = STRETCH * m.inner_steps
    length = m.expert_epochs * config.expert.save_every
    assert 0.75 * min(wanted, steps * 2 / 3) <= length <= 1.25 * wanted
    assert rows < 120
    assert m.inner_steps == min(50, max(1, 2 * steps // 3 // STRETCH)), "shorter where an expert takes few steps"
    if 128 < images < 100_000:
        assert length == wanted
        assert (m.last_epoch - m.first_epoch) * config.expert.save_every == wanted / 2
    assert config.expert.epochs <= MOST_EPOCHS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert.epochs", 1), ("expert.epochs", 3), ("expert.save_every", 7), ("expert.save_every", 3000),
        ("matching.expert_epochs", 1), ("matching.expert_epochs", 40), ("matching.last_epoch", 50), ("steps", 9),
        ("images.size", 64), ("images.size", 8), ("network.depth", 1), ("outer.step_size", 0.5),
        ("matching.inner_steps", 2), ("matching.first_epoch", 1), ("matching.window_start", 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("images", [100, 4050, 60_000])
def test_what_is_given_is_taken_and_the_rest_fits_it(key: str, value: float, images: int) -> None:
    config = settled(with_setting(IMAGES, key, value), (key,), images)  # resolve() refuses what does not fit
    assert with_setting(config, key, value) == config
    if key.startswith("matching.") and key != "matching.inner_steps":
        assert config.expert.save_every is None  # the unit of these is an epoch


@pytest.mark.parametrize(
    ("side", "size", "depth"),
    [(3, 4, 2), (4, 4, 2), (8, 8, 2), (10, 8, 2), (28, 28, 2), (31, 28, 2), (32, 32, 3), (500, 32, 3)],
)
def test_size_and_depth_follow_the_images(side: int, size: int, depth: int) -> None:
    config = chosen(IMAGES, by_size(IMAGES, left_open(()), side))
    assert (config.images.size, config.network.depth) == (size, depth)
    assert size % 2**depth == 0


def test_depth_follows_a_size_that_is_given() -> None:
    larger = with_setting(IMAGES, "images.size", 64)
    assert [choice.key for choice in by_size(larger, left_open(("images.size",)), None)] == ["network.depth"]
    assert chosen(larger, by_size(larger, left_open(("images.size",)), None)).network.depth == 4


def test_fewer_steps_where_each_takes_longer() -> None:
    assert settled(IMAGES, (), 4050).steps == 500
    assert settled(IMAGES, (), 40_000, classes=200).steps == 250
    assert settled(IMAGES, (), 400_000, classes=1000).steps == 200


@pytest.mark.parametrize(("classes", "batch"), [(10, 50), (100, 50), (101, 49), (200, 25), (1000, 5), (20_000, 1)])
def test_a_step_takes_no_more_real_images_where_there_are_many_classes(classes: int, batch: int) -> None:
    config = with_setting(IMAGES, "method", "satm-bptt")
    assert settled(config, (), 400_000, classes).baseline.batch == batch
    given = with_setting(config, "baseline.batch", 60)
    assert settled(given, ("baseline.batch",), 400_000, classes).baseline.batch == 60
    for method in ("satm", "dm"):  # the first takes none, the others as many as are published
        assert settled(with_setting(config, "method", method), (), 400_000, classes).baseline.batch == 256


@pytest.mark.parametrize("images", [50, 900, 22_500, 1_000_000])
def test_segments_start_later_with_many_classes(images: int) -> None:
    few, many = (settled(IMAGES, (), images, classes) for classes in (CLASSES - 1, CLASSES))
    assert few.matching.inner_steps == many.matching.inner_steps == 50 or images == 50
    for config, starts in ((few, 1 / 2), (many, 4)):
        every, m = config.expert.save_every, config.matching
        assert every is not None
        steps = config.expert.epochs * ceil(images / config.expert.batch)
        assert m.last_epoch - 1 + m.expert_epochs <= steps // every
        if images in (900, 22_500):
            assert m.last_epoch * every == starts * STRETCH * m.inner_steps


@pytest.mark.parametrize(
    ("given", "classes", "ipc", "labels"),
    [
        ((), CLASSES - 1, IPC - 1, "hard"), ((), CLASSES, 1, "learned"), (("ipc",), 2, IPC, "learned"),
        (("outer.labels",), 1000, 50, "hard"), (("method",), 1000, 50, "hard"),
    ],
)  # fmt: skip
def test_labels_are_learned_with_many_classes_or_images_of_each_and_no_method_named(
    given: tuple[str, ...], classes: int, ipc: int, labels: str
) -> None:
    config = with_setting(IMAGES, "ipc", ipc)
    assert settled(config, given, 400_000, classes).outer.labels == labels
    for still in ("dm", "random"):
        assert settled(with_setting(config, "method", still), (), 400_000, 1000).outer.labels == "hard"


def test_methods_without_experts_have_none_to_choose() -> None:
    config = with_setting(IMAGES, "method", "dm")
    assert [choice.key for choice in by_number(config, left_open(()), 4050, 10, 32)] == ["steps"]
    still = with_setting(IMAGES, "method", "random")
    assert by_number(still, left_open(()), 4050, 10, 32) == []


@pytest.mark.parametrize(
    ("name", "rest", "open_"),
    [
        (None, [], set()),
        ("images", ["--data", "here"], set()),
        ("digits-ipc10", ["--data", "here"], set()),
        (None, ["--data", "here"], set(OPEN)),
        (None, ["--data", "here", "--steps", "500", "--network.depth=3"], set(OPEN) - {"steps", "network.depth"}),
        (None, ["--data", "here", "--expert.save_every", "5"], set(OPEN) - {"expert.save_every"}),
        (None, ["--data", "here", "--method", "satm"], set(OPEN) - {"outer.labels"}),
        (
            None,
            ["--data", "here", "--matching.last-epoch", "4"],
            set(OPEN) - {"expert.save_every", "matching.last_epoch"},
        ),
    ],
)
def test_presets_by_name_and_flags_leave_nothing_open(name: str | None, rest: list[str], open_: set[str]) -> None:
    assert settings_of("run", name, rest).left == Left(frozenset(open_))


def test_a_choice_is_one_line_with_its_reason() -> None:
    assert Choice("expert.epochs", 25, "of 64 steps").line() == "chosen: --expert.epochs 25 (of 64 steps)"
