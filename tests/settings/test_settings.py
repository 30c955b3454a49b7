"""Settings: defaults by method, ranges, flat records, YAML and presets."""

from dataclasses import replace
from pathlib import Path

import pytest
import tyro
import yaml

from trajmatch.run.folder import check_claim, claim
from trajmatch.run.stages.experts import shard_of
from trajmatch.settings.baseline import Baseline
from trajmatch.settings.checks import needed_snapshots, resolve
from trajmatch.settings.config import Config, Expert, Matching
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import DISTILL_FIELDS, EXPERT_FIELDS, difference, flags, flatten, nest, settings
from trajmatch.settings.presets import PRESETS, preset


def test_satm_and_mtt_fill_in_their_own_defaults() -> None:
    satm = resolve(Config(method="satm")).matching
    assert (satm.differentiated_steps, satm.restart_step) == (16, 34)
    assert (satm.sharpness, satm.smoothing, satm.rate) == ("sam", 0.05, "closed-form")
    mtt = resolve(Config(method="mtt")).matching
    assert (mtt.differentiated_steps, mtt.restart_step) == (50, 0)
    assert (mtt.sharpness, mtt.smoothing, mtt.rate) == ("none", 0.0, "exact")


def test_every_ablation_is_one_option() -> None:
    chosen = resolve(Config(matching=Matching(smoothing=0.0, restart_step=0, rate="exact", sharpness="gsam"))).matching
    assert (chosen.smoothing, chosen.restart_step, chosen.rate, chosen.sharpness) == (0.0, 0, "exact", "gsam")
    assert resolve(Config(matching=Matching(differentiated_steps=50))).matching.restart_step == 0


@pytest.mark.parametrize(
    ("matching", "says"),
    [
        ({"differentiated_steps": 51}, r"--matching\.differentiated-steps is 51 and must be at most the 50"),
        ({"restart_step": 50}, r"--matching\.restart-step is 50 and must be below the 50"),
        ({"last_epoch": 0}, r"--matching\.last-epoch is 0 and must be above"),
        ({"inner_steps": 0}, r"--matching\.inner-steps is 0 and must be at least 1"),
        ({"radius": -1.0}, r"--matching\.radius is -1\.0 and must be at least 0"),
        ({"smoothing": float("nan")}, r"--matching\.smoothing is nan"),
        ({"last_epoch": 60}, r"--expert\.epochs is 50 and must be at least 61"),
        (
            {"last_epoch": 50, "expert_epochs": 1, "path": "straight"},
            r"--expert\.epochs is 50 and must be at least 51: segments start anywhere before epoch 50",
        ),
    ],
)
def test_ranges_of_matching(matching: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(Config(matching=Matching(**matching)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        ({"inner_steps": 5}, r"--matching\.differentiated-steps is 16 and must be at most the 5 of --baseline\.inner"),
        (
            {"differentiated_steps": 51},
            r"--baseline\.differentiated-steps is 51 and must be at most the 50 of --matching",
        ),
        ({"inner_steps": 9, "differentiated_steps": 10}, r"is 10 and must be at most the 9 of --baseline\.inner-steps"),
    ],
)
@pytest.mark.parametrize("students", [0, 3])
def test_no_more_steps_are_differentiated_than_there_are(baseline: dict[str, int], says: str, students: int) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(Config(method="rat-bptt", baseline=Baseline(students=students, **baseline)))


def test_the_closed_form_is_of_matched_segments_alone() -> None:
    rate = Matching(rate="closed-form")
    assert resolve(Config(method="satm-bptt", matching=rate)).matching.rate == "closed-form"
    with pytest.raises(ValueError, match=r"--matching\.rate is closed-form, which is of matched segments"):
        resolve(Config(method="rat-bptt", matching=rate))


def test_a_straight_path_of_long_segments_needs_no_epoch_more() -> None:
    chosen = Matching(last_epoch=49, expert_epochs=2, path="straight")
    assert needed_snapshots(resolve(Config(matching=chosen)).matching) == 50


def test_other_ranges() -> None:
    with pytest.raises(ValueError, match="--ipc is 0"):
        resolve(Config(ipc=0))
    with pytest.raises(ValueError, match=r"--expert\.lr is inf and must be a positive number"):
        resolve(Config(expert=Expert(lr=float("inf"))))
    with pytest.raises(ValueError, match=r"--expert\.momentum is 1\.0 and must be at least 0 and below 1"):
        resolve(Config(expert=Expert(momentum=1.0)))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_complete_and_survive_yaml(name: str, tmp_path: Path) -> None:
    config = preset(name)
    resolve(config)
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(nest(flatten(config))))
    assert tyro.cli(Config, args=flags(read_config(path))) == config
    assert PRESETS[name].__doc__


def test_yaml_numbers_that_yaml_reads_as_words(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("outer: {lr_images: 1e3, ema: null}\nimages: {classes: [cat, dog], hold_out: false}\n")
    config = tyro.cli(Config, args=flags(read_config(path)))
    assert config.outer.lr_images == 1000.0
    assert config.images.classes == ("cat", "dog")
    assert config.images.hold_out is False


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--config: there is no file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"a\.yaml is not YAML"):
        read_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="list of names and values"):
        read_config(tmp_path / "b.yaml")


def test_what_a_stage_depends_on() -> None:
    base = Config()
    faster = replace(base, expert=replace(base.expert, workers=3), outer=replace(base.outer, checkpoint_seconds=1.0))
    assert settings(base, DISTILL_FIELDS) == settings(faster, DISTILL_FIELDS)
    assert settings(base, EXPERT_FIELDS) == settings(replace(base, ipc=10), EXPERT_FIELDS)
    assert settings(base, DISTILL_FIELDS) != settings(replace(base, ipc=10), DISTILL_FIELDS)
    words = difference(settings(base, DISTILL_FIELDS), settings(replace(base, ipc=10), DISTILL_FIELDS))
    assert words == "--ipc is 1 there and 10 here"


@pytest.mark.parametrize("lacks", [True, False])
def test_a_folder_that_could_not_record_a_setting_yet_still_belongs(tmp_path: Path, lacks: bool) -> None:
    for method, belongs in (("satm", True), ("satm-contra", False)):  # satm-contra clips now, and did not then
        config, path = resolve(replace(Config(), method=method)), tmp_path / method / "config.yaml"
        claim(path.parent, config)
        held = yaml.safe_load(path.read_text())
        held["outer"]["relative_clip"] = None
        if lacks:
            del held["outer"]["relative_clip"]
        path.write_text(yaml.safe_dump(held))
        if belongs:
            assert check_claim(path.parent, config)
        else:
            with pytest.raises(ValueError, match=r"--outer\.relative-clip is 0\.0 there and 2\.0 here"):
                check_claim(path.parent, config)


def test_a_record_of_before_a_setting_had_what_the_setting_does_where_no_method_fills_it_in() -> None:
    young = {"baseline.inner": "sgd", "baseline.inner_lr": 0.001, "baseline.window_stages": "thirds"}
    for method in ("satm", "rat-bptt"):
        now = settings(resolve(replace(Config(), method=method)), DISTILL_FIELDS)
        then = {key: value for key, value in now.items() if key not in young}
        assert {key: now[key] for key in young} == young
        assert difference(then, now) is None
        assert difference(now, then) is None
        words = difference(then, now | {"baseline.inner": "adam"})
        assert words == "--baseline.inner is sgd there and adam here"
    assert difference({"ipc": 1}, {"ipc": 1, "new": 2}) == "--new is None there and 2 here"


def test_a_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert check_claim(folder, Config()) is False
    assert not folder.exists()
    claim(folder, Config())
    assert check_claim(folder, replace(Config(), resume=True, device="cpu")) is True
    before = (folder / "config.yaml").read_bytes()
    with pytest.raises(ValueError, match="--seed is 0 there and 1 here; choose another --out"):
        claim(folder, replace(Config(), seed=1))
    assert (folder / "config.yaml").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="not empty and not a run folder"):
        claim(tmp_path / "mine", Config())
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "mine" / "thesis.tex", Config())


def test_shards_part_the_experts() -> None:
    parts = [shard_of(f"{i}/3", 8) for i in range(3)]
    assert sorted(index for part in parts for index in part) == list(range(8))
    assert shard_of(None, 3) == [0, 1, 2]
    for wrong in ("3/3", "a/b", "1", "-1/2"):
        with pytest.raises(ValueError, match=rf"^--expert\.shard is '{wrong}' and must be i/n"):
            resolve(replace(Config(), expert=Expert(shard=wrong)))
