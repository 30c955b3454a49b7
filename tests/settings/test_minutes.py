"""What fits into some minutes: never more than there is, what is given is taken, and too few minutes are refused."""

import pytest

from trajmatch.settings.checks import resolve
from trajmatch.settings.choices import chosen
from trajmatch.settings.config import Config
from trajmatch.settings.kinds import with_setting
from trajmatch.settings.minutes import FIT, MOST, Measured, fitting, networks
from trajmatch.settings.presets import preset

CONFIG = resolve(preset("images"))
MEASURED = Measured(experts=300.0, distill=500.0, evaluate=230.0)  # 60 s for two experts, a step is 1 s, a network 10


def taken(config: Config, measured: Measured = MEASURED, before: Config = CONFIG) -> float:
    """Seconds of a run, by the measured costs."""
    e, old = config.evaluation, before.evaluation
    assert e.epochs is not None
    assert old.epochs is not None
    one = measured.evaluate / networks(old, 4) / old.epochs
    experts = measured.experts / -(-int(before.experts) // 2) * -(-int(config.experts) // 2)
    return experts + config.steps * measured.distill / before.steps + one * e.epochs * networks(e, 4)


@pytest.mark.parametrize("seconds", [150.0, 300.0, 720.0, 1500.0, 6000.0])
def test_a_run_takes_no_longer_than_there_is_time_and_most_of_it(seconds: float) -> None:
    found = chosen(CONFIG, fitting(CONFIG, FIT, MEASURED, seconds, workers=2))
    assert 0.7 * seconds < taken(found) <= 0.9 * seconds + 1 or found.steps == MOST
    assert resolve(found) == found


def test_more_time_is_more_of_everything() -> None:
    few, many = (chosen(CONFIG, fitting(CONFIG, FIT, MEASURED, s, 2)) for s in (200.0, 3000.0))
    assert int(few.experts) < int(many.experts) == 10
    assert few.steps < CONFIG.steps < many.steps
    assert few.evaluation.networks < many.evaluation.networks == 5


@pytest.mark.parametrize(
    ("key", "value"),
    [("experts", "3"), ("steps", 40), ("evaluation.networks", 4), ("evaluation.epochs", 77), ("experts", "folder")],
)
def test_what_is_given_is_taken(key: str, value: object) -> None:
    config = with_setting(CONFIG, key, value)
    measured = MEASURED._replace(distill=40.0) if key == "steps" else MEASURED
    measured = measured._replace(experts=0.0) if value == "folder" else measured
    found = chosen(config, fitting(config, set(FIT) - {key}, measured, 720.0, 2))
    assert with_setting(found, key, value) == found
    assert [choice.key for choice in fitting(config, set(FIT) - {key}, measured, 720.0, 2)].count(key) == 0


def test_too_few_minutes_are_refused_with_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"^--minutes leaves 60 s after .* takes 3\d s more: give more minutes"):
        fitting(CONFIG, FIT, MEASURED, 60.0, 2)
    with pytest.raises(ValueError, match="more: give more minutes"):
        fitting(CONFIG, set(FIT) - {"steps"}, MEASURED, 300.0, 2)


def test_sets_of_real_images_take_no_steps() -> None:
    config = resolve(with_setting(preset("images"), "method", "random"))
    keys = {choice.key for choice in fitting(config, FIT, Measured(0.0, 1.0, 2300.0), 300.0, 2)}
    assert keys == {
        "evaluation.networks",
        "evaluation.random_draws",
        "evaluation.validation_networks",
        "evaluation.epochs",
    }
