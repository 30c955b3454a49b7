"""Values: every field of the configuration and of the verbs' own options, from flags, from files and from Python."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.run.test_cli import refusal
from trajmatch.machine import caches
from trajmatch.run import cli
from trajmatch.run.assembly import setup
from trajmatch.run.folder import check_claim, claim
from trajmatch.run.stages.experts import count_or_folder
from trajmatch.settings import command_line as words
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.flat import DEFAULTS, flags, flatten, nest, parsed
from trajmatch.settings.heeded import NOT_DONE, RULES, idle
from trajmatch.settings.kinds import Kind, checked, converted, flag, kinds, merged
from trajmatch.settings.options import Compare, Continual, Diagnose, Evaluate, Plan, Run, Search
from trajmatch.settings.presets import preset
from trajmatch.settings.words import check_words

Captured = pytest.CaptureFixture[str]
Logged = pytest.LogCaptureFixture
FIELDS = kinds(Config)
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "-0.0",
    "0.5",
    "1.5",
    "1e-40",
    "1e31",
    "inf",
    "-inf",
    "nan",
    "1" * 40,
    str(2**63),
    "1e3",
]
TEXTS = ["", " ", "é", "٣", "²", "1_000", "none", "0/1", "3/2", "~", "a\nb", "x" * 300, "\udce9", "null", "yes", "4XB"]


def spelt(of: Kind) -> st.SearchStrategy[str]:
    """Words for a field: right ones, and wrong ones of many kinds."""
    right = list(of.choices) or (["True", "False"] if of.base is bool else NUMBERS)
    return st.sampled_from(right + NUMBERS + TEXTS)


@st.composite
def wishes(draw: st.DrawFn, record: type) -> list[tuple[str, str]]:
    """Some settings with words for their values."""
    known = kinds(record)
    keys = draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3, unique=True))
    return [(key, draw(spelt(known[key]))) for key in keys]


def told(capsys: Captured, arguments: list[str]) -> tuple[int, str]:
    """Exit code of a command, and what it says on stderr."""
    try:
        code = cli.main(arguments)
    except SystemExit as end:  # an argument parser's own
        code = end.code if isinstance(end.code, int) else 1
    return code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where images would be read, after every check of values."""
    monkeypatch.setattr(setup, "load_material", _enough)


class Enough(BaseException):
    """The checks are over."""


def _enough(*_: Any, **__: Any) -> Any:
    raise Enough


@pytest.mark.parametrize(("verb", "count"), [("run", 40), ("experts", 8), ("continual", 8)])
def test_any_value_of_any_field_is_heeded_or_refused_by_name(
    verb: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(wish=wishes(Config), written=st.sampled_from(["flag", "file"]))
    def check(wish: list[tuple[str, str]], written: str) -> None:
        wish = [(key, value) for key, value in wish if key not in ("out", "resume")]
        given = [part for key, value in wish for part in as_flag(key, value)]
        if written == "file":
            (tmp_path / "c.yaml").write_text(yaml.safe_dump(nest(dict(wish))), "utf-8", "surrogateescape")
            given = ["--config", "c.yaml"]
        try:
            code, said = told(capsys, [verb, *given])
        except Enough:
            capsys.readouterr()
        else:
            names = [name for key, _ in wish for name in (flag(key), key, key.split(".")[-1])]
            assert code == 2, (given, said)
            assert "Traceback" not in said
            assert any(name in said for name in [*names, "--matching", "--expert"]), (given, said)
        assert {path.name for path in tmp_path.iterdir()} <= {"c.yaml"}, given

    check()


def as_flag(key: str, value: str) -> list[str]:
    """A setting as words of a command line."""
    if FIELDS[key].base is bool:
        *group, name = flag(key).split(".")
        return [flag(key) if value != "False" or not group else f"{group[0]}.no-{name}"]
    return [f"{flag(key)}={value}"]


@pytest.mark.parametrize("record", [Compare, Continual, Diagnose, Evaluate, Plan, Run, Search])
def test_any_value_of_any_option_of_a_verb_is_taken_or_refused_by_name(record: type) -> None:
    known = kinds(record)

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(wishes(record))
    def check(wish: list[tuple[str, str]]) -> None:
        for key, value in wish:
            of = known[key]
            refused = ""
            try:
                converted(key, of, [value] if of.several else value)
            except ValueError as error:
                refused = str(error)
            assert refused == "" or refused.startswith(f"{flag(key)} "), refused

    check()


@pytest.mark.parametrize("record", [Config, Compare, Continual, Diagnose, Evaluate, Plan, Run, Search])
def test_every_number_has_a_range_and_every_text_a_rule(record: type) -> None:
    for key, of in kinds(record).items():
        if of.base in (int, float, str) and not of.choices and key != "rates":
            assert of.limits, f"{key} may be anything"
        for wrong in (float("nan"), float("inf"), -float("inf")):
            if of.base in (int, float) and key != "rates":
                with pytest.raises(ValueError, match=re.escape(flag(key))):
                    converted(key, of, [wrong] if of.several else wrong)
    assert checked(record()) == record()


def example(key: str, of: Kind) -> str:
    """Words that a field may have, other than the default's where there are others."""
    others = [choice for choice in of.choices if choice != DEFAULTS[key]]
    if others:
        return others[0]
    if key == "expert.shard":
        return "1/2"
    candidates = {int: ["2", "3"], float: ["1", "0.25", "0"], bool: ["true"], str: ["no", "2001-01-01", "1e3", "017"]}
    for text in candidates[of.base]:
        try:
            value = converted(key, of, [text] if of.several else text)
        except ValueError:
            continue
        if value != DEFAULTS[key]:
            return text
    raise AssertionError(f"no example for {key}")


def test_every_value_is_the_same_from_a_flag_a_file_and_python(tmp_path: Path) -> None:
    typed, path = [], tmp_path / "c.yaml"
    written: dict[str, str] = {}
    for key, of in FIELDS.items():
        text = example(key, of) if of.base is not bool else "false" if DEFAULTS[key] else "true"
        *group, name = flag(key).split(".")
        typed += [flag(key) if text == "true" else f"{group[0]}.no-{name}"] if of.base is bool else [flag(key), text]
        written[key] = f"[{text}]" if of.several else text
    path.write_text("".join(f"{key}: {text}\n" for key, text in written.items()))
    from_flags = words.configuration("trajmatch", Config(), typed).config
    from_file = words.configuration("trajmatch", Config(), ["--config", str(path)]).config
    assert repr(from_flags) == repr(from_file) == repr(parsed(flatten(from_flags))) == repr(checked(from_flags))
    assert [key for key, value in flatten(from_flags).items() if value == DEFAULTS[key]] == []
    assert repr(read_config(path)) == repr(flatten(from_flags))


def test_whole_numbers_from_python_and_from_headers_become_fractions() -> None:
    config = Config(outer=dataclasses.replace(Config().outer, lr_images=3))
    assert repr(resolve(config).outer.lr_images) == "3.0"
    assert repr(parsed({"outer.lr_images": 3}).outer.lr_images) == "3.0"
    with pytest.raises(ValueError, match=r"--ipc is 2\.0 and must be a whole number"):
        resolve(Config(ipc=2.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"--images is None and must be a group of settings|--images is nothing"):
        resolve(Config(images=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ipc: 1\nipc: 2\n", "line 2 gives ipc a second time, after line 1"),
        ("images:\n  size: 3\nseed: 1\nimages:\n  size: 4\n", "line 4 gives images a second time, after line 1"),
        ("outer: {lr-images: 3, lr_images: 4}\n", "outer.lr_images a second time"),
        ("outer: {lr_images: 3}\nouter.lr_images: 4\n", "outer.lr_images a second time"),
        ("&r\nouter: *r\n", "outer.outer, which is no group"),
        ("images: &a {size: *a}\n", "images.size, which is one setting"),
        ("images: {classes: &c [*c]}\n", "a list or a group within the list of images.classes"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "within the list of b"),
        ("outer: &o {<<: *o}\n", "merges in what is not one plain group"),
        ("x: " + "[" * 2000, "more than 20 levels deep"),
        ("{" * 2000, "more than 20 levels deep"),
        ("iipc: 3\n", "there is no setting 'iipc'; did you mean ipc?"),
        ("outer: {lr_image: 3}\n", "did you mean outer.lr_images?"),
        ("1: 2\n", "there is no setting '1'"),
        ("[a]: 3\n", "where the name of a setting must be"),
        ("images: 16\n", "a value for images, which is a group"),
        ("ipc: [1]\n", "--ipc is [1] and must be one value"),
        ("ipc: null\n", "--ipc is nothing and must be a whole number"),
        ("ipc: ten\n", "--ipc is 'ten' and must be a whole number"),
        ("data: ~\n", "--data is nothing and must be words"),
        ("ipc: {a: 1}\n", "ipc, which is one setting"),
        ("images: {classes: cat}\n", "--images.classes is 'cat' and must be a list, such as [cat]"),
        ("outer: {lr_images: .inf}\n", "--outer.lr-images is inf and must be a positive number"),
        ("outer: {ema: 1}\n", "--outer.ema is 1.0 and must be at least 0 and below 1"),
        ("steps: 1:30\n", "--steps is '1:30' and must be a whole number"),
        ("ipc: 0x10\n", "--ipc is '0x10' and must be a whole number"),
        ("method: mt\n", "did you mean mtt?"),
        ("ipc: !!python/object:os.system x\n", "has the tag"),
        ("\tipc: 1\n", "is not YAML: found character"),
        ("ipc: 1\n---\nipc: 2\n", "is not YAML"),
        ('data: "a\\0b"\n', "without characters of code 0"),
        ("", "a list of names and values"),
        ("- 1\n", "a list of names and values"),
        ("# " + "x" * 1_000_001, "more than 1,000,000 bytes"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_its_name(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    sentence = refusal(capsys, "run", "--config", "c.yaml")
    assert "c.yaml" in sentence
    assert says in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_files_that_cannot_be_read(tmp_path: Path, capsys: Captured) -> None:
    assert f"{tmp_path} can't be read: is a directory" in refusal(capsys, "run", "--config", tmp_path)
    (tmp_path / "latin.yaml").write_bytes("data: café".encode("latin-1"))
    assert "latin.yaml is not YAML: its byte 9, 0xe9, is no UTF-8" in refusal(
        capsys, "run", "--config", tmp_path / "latin.yaml"
    )
    if Path("/dev/zero").exists():
        assert "/dev/zero has more than" in refusal(capsys, "run", "--config", "/dev/zero")


def test_words_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = "images: {classes: [no, yes, 1.0, 2001-01-01, null, 017, 'on'], hold_out: off}\nexpert: {flat: yes}\n"
    path.write_text("\ufeff" + text + "outer: &o {clip: 1e1, lr_images: 4}\nbaseline:\nexperts: 3\n", "utf-8")
    config = parsed(read_config(path))
    assert config.images.classes == ("no", "yes", "1.0", "2001-01-01", "null", "017", "on")
    assert (config.images.hold_out, config.expert.flat, config.outer.clip) == (False, "yes", 10.0)
    assert (config.experts, config.baseline) == ("3", Config().baseline)
    path.write_text("outer: {<<: {clip: 3, ema: 0.5}, clip: 4}\n")
    assert read_config(path) == {"outer.clip": 4.0, "outer.ema": 0.5}


OLD = {
    "evaluation.architectures": ["lenet"],
    "evaluation.rates": [0.1],
    "evaluation.ranking": True,
    "evaluation.sizes": [1],
}


def test_folders_and_sets_of_older_versions_are_still_read(tmp_path: Path, caplog: Logged) -> None:
    assert parsed({**OLD, "ipc": 3}).ipc == 3
    claim(tmp_path / "r", Config())
    path = tmp_path / "r" / "config.yaml"
    path.write_text(yaml.safe_dump(nest({**yaml_flat(path), **OLD})))
    assert check_claim(tmp_path / "r", Config())
    found = words.configuration("trajmatch", Config(), ["--config", str(path)])
    assert found.config == Config()
    assert "evaluation.rates is left out; it is --rates of trajmatch evaluate" in caplog.text


def yaml_flat(path: Path) -> dict[str, Any]:
    record = yaml.safe_load(path.read_text())
    return {
        (f"{key}.{name}" if name else key): value
        for key, part in record.items()
        for name, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--ranking"], "--ranking is of trajmatch evaluate"),
        (["run", "--sizes", "1", "2"], "--sizes is of trajmatch evaluate"),
        (["distill", "--networks", "mlp"], "--networks is of trajmatch evaluate"),
        (["plan", "--evaluation.rates", "0.1"], "--evaluation.rates is of trajmatch evaluate"),
        (["continual", "--evaluation.architectures", "mlp"], "--evaluation.architectures is of trajmatch evaluate"),
        (["run", "--expert.shard", "3/2"], "--expert.shard is '3/2' and must be i/n"),
        (["run", "--expert.shard", "0/2"], "--expert.shard is 0/2, which trajmatch experts alone heeds"),
        (["run", "--outer.snapshot-at", "-5"], "--outer.snapshot-at has -5 and must be at least 1"),
        (["run", "--steps", "9", "--outer.snapshot-at", "10"], "--outer.snapshot-at has 10 and must be at most the 9"),
        (["run", "--evaluation.weight-decay", "inf"], "--evaluation.weight-decay is inf and must be at most"),
        (["run", "--matching.vasso-decay", "0"], "--matching.vasso-decay is 0.0 and must be above 0 and at most 1"),
        (["run", "--matching.vasso-decay", "nan"], "--matching.vasso-decay is nan and must be above 0 and at most 1"),
        (["run", "--seed", "9" * 20], "--seed is 99999999999999999999 and must be at most 9223372036854775807"),
        (["run", "--steps", "1" + "0" * 30], "must be at most 1000000000"),
        (["run", "--experts", "9" * 30], "must be at most 100000"),
        (["run", "--experts", "٣"], "--experts is '٣', which is neither a number nor a folder"),
        (["run", "--experts", "²"], "--experts is '²', which is neither a number nor a folder"),
        (["run", "--out", ""], "--out is empty"),
        (["run", "--out="], "--out is empty"),
        (["run", "--experts", " "], "--experts is empty"),
        (["run", "--config", ""], "--config is empty"),
        (["run", "--data", ""], "--data is empty"),
        (["compare", ""], "is empty"),
        (["diagnose", "nearest", "--run", ""], "--run is empty"),
        (["diagnose", "nearest", "--set", "x", "--out", ""], "--out is empty"),
        (["run", "--data", "caf\udce9"], "--data has 'caf\\udce9', which is not UTF-8"),
        (["evaluate", "caf\udce9"], "which is not UTF-8"),
        (["run", "--images.hold-out", "--images.no-hold-out"], "--images.no-hold-out is given twice, as --images.hold"),
        (["run", "--flat", "--expert.flat", "no"], "--expert.flat is given twice, as --flat too"),
        (["evaluate", "x", "--networks", "mlp", "--evaluation.architectures", "lenet"], "is given twice"),
        (["run", "--images.classes"], "--images.classes needs at least one value"),
        (["run", "--out=~no-such-user/x"], "--out is '~no-such-user/x', and there is no such home folder"),
        (["run", "--config", "--steps", "3"], "--config needs the name of a YAML file"),
        (["run", "--device", "meta"], "--device is 'meta'"),
    ],
)
def test_one_sentence_each(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refusal(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("typed", ["abc", "1.5", "1_000", "٣", "0x10", "1e3", "9" * 5000])
def test_what_is_no_whole_number_is_refused_with_the_flags_name(typed: str, capsys: Captured) -> None:
    code, said = told(capsys, ["run", "--steps", typed])
    assert code == 2
    assert re.fullmatch(r"trajmatch: --steps is '.*(\.\.\.|') and must be a whole number\n", said)
    assert len(said) < 200


def test_a_home_folder_is_found_in_files_and_behind_an_equals_sign(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("out: ~/there\n")
    assert words.configuration("t", Config(), ["--config=~/c.yaml"]).config.out == str(tmp_path / "there")
    assert words.configuration("t", Config(), ["--experts=~/e"]).config.experts == str(tmp_path / "e")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            "--method rat-bptt --matching.rate fixed --baseline.rate learned",
            "--baseline.rate has no effect with --matching.rate fixed",
        ),
        (
            "--method rat-bptt --baseline.rate fixed --outer.lr-step-size 0.1",
            "--outer.lr-step-size has no effect with --baseline.rate fixed",
        ),
        ("--method mtt --baseline.rate-factor 3", "--baseline.rate-factor has no effect with --method mtt"),
        ("--method rat-bptt --baseline.rate-factor 3", "--baseline.rate-factor has no effect with --method rat-bptt"),
        (
            "--method satm-bptt --baseline.inner adam --baseline.rate-factor 3",
            "--baseline.rate-factor has no effect with --baseline.inner adam, whose rate is fixed",
        ),
        ("--outer.optimiser adam --outer.momentum 0.3", "--outer.momentum has no effect with --outer.optimiser adam"),
        ("--method mtt --matching.radius 0.3", "--matching.radius has no effect with --matching.sharpness none"),
        ("--matching.asam-offset 0.3", "--matching.asam-offset has no effect with --matching.sharpness sam"),
        ("--matching.vasso-decay 0.3", "--matching.vasso-decay has no effect with --matching.sharpness sam"),
        ("--outer.lr-labels 1", "--outer.lr-labels has no effect with --outer.labels hard"),
        ("--network.name lenet --network.depth 1", "--network.depth has no effect with --network.name lenet"),
        ("--baseline.lr 1 --baseline.batch 3", "--baseline.batch, --baseline.lr have no effect with --method satm"),
        ("--method dm --matching.inner-steps 5", "--matching.inner-steps has no effect with --method dm"),
        ("--method random --steps 7", "--steps has no effect with --method random"),
        ("--method dm --expert.epochs 90", "--expert.epochs has no effect with --method dm"),
        ("--matching.combine adaptive", "--matching.combine has no effect with --matching.segments 1"),
        ("--micro-batch 3 --memory 4GB", "--memory has no effect with --micro-batch"),
        ("--method rat-bptt --baseline.inner-lr 1", "--baseline.inner-lr has no effect with --baseline.inner sgd"),
        ("--method dm --baseline.inner-lr 1", "--baseline.inner-lr has no effect with --method dm"),
        ("--method at-bptt --outer.lr-step-size 1", "--outer.lr-step-size has no effect with --baseline.inner adam"),
        ("--method at-bptt --matching.rate exact", "--matching.rate has no effect with --baseline.inner adam"),
        ("--method rat-bptt --baseline.window-stages accuracy", "window-stages has no effect with --baseline.window"),
        ("--matching.waypoints 2", "--matching.waypoints has no effect with --matching.path expert"),
        ("--method rat-bptt --matching.early-stop", "--matching.early-stop has no effect with --method rat-bptt"),
        ("--method herding --outer.image-norm 1", "--outer.image-norm has no effect with --method herding"),
        ("--expert.flat-radius 0.3", "--expert.flat-radius has no effect with --expert.flat no"),
    ],
)
def test_what_has_no_effect_is_said(arguments: str, says: str, caplog: Logged) -> None:
    words.settings_of("run", "digits-ipc1", arguments.split())
    assert says in caplog.text


def test_what_has_no_effect_on_a_set_is_put_back(caplog: Logged) -> None:
    """The steps of a set that is there say which snapshots it has."""
    given = ["--steps", "7", "--outer.lr-images", "9", "--evaluation.networks", "3", "--method", "mtt"]
    asked = words.configuration("t", preset("digits-ipc1"), given, Evaluate)
    asked = words.put_back(asked, words.tell_idle("evaluate", given, asked))
    assert "--steps" in caplog.text
    assert (asked.config.steps, asked.config.outer.lr_images) == (asked.base.steps, asked.base.outer.lr_images)
    assert asked.config.evaluation.networks == 3


def test_what_has_an_effect_or_changes_nothing_is_not_said(caplog: Logged) -> None:
    same = ["--outer.momentum", str(preset("digits-ipc1").outer.momentum)]
    words.settings_of("run", "digits-ipc1", [*same, "--outer.optimiser", "adam", "--matching.radius", "0.3"])
    words.settings_of("run", "digits-ipc1", ["--matching.sharpness", "vasso", "--matching.vasso-decay", "0.3"])
    words.settings_of("run", "digits-ipc1", ["--method", "dm", "--expert.lr", "0.5", "--evaluation.whole-epochs", "3"])
    assert caplog.messages == []


def test_the_table_of_what_has_no_effect_names_settings_that_there_are() -> None:
    patterns = [
        p for text in [*(r.patterns for r in RULES), *(r.but for r in RULES), *NOT_DONE.values()] for p in text.split()
    ]
    for pattern in patterns:
        regular = re.compile(pattern.replace(".", r"\.").replace("*", ".*").replace("[!", "[^"))
        assert any(regular.fullmatch(key) for key in FIELDS), pattern
    assert idle("evaluate", Config(), Evaluate(networks=("mlp",)), ["outer.lr_images", "evaluation.random_draws"]) == {
        "trajmatch evaluate": ["outer.lr_images"],
        "--networks": ["evaluation.random_draws"],
    }
    assert idle("evaluate", Config(experts="3"), Evaluate(), ["experts"]) == {
        "trajmatch evaluate, which trains none": ["experts"]
    }
    assert idle("evaluate", Config(experts="runs/r/experts"), Evaluate(), ["experts"]) == {}


def test_a_flag_that_stands_twice_is_said(caplog: Logged) -> None:
    check_words(["--steps", "1", "--seed", "0", "--steps=2"])
    assert caplog.messages == ["--steps is given more than once: the last one counts"]


def test_experts_are_counted_by_plain_digits() -> None:
    assert count_or_folder("0012") == 12
    for wrong in ("-3", "0", "100001"):
        with pytest.raises(ValueError, match=f"--experts is {wrong} and must be"):
            count_or_folder(wrong)


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    network = dataclasses.replace(Config().network, width=65_536)
    monkeypatch.setattr(setup, "memory_bytes", lambda: 8e9)
    with pytest.raises(ValueError, match=r"--network\.width is 65536, with which 3 blocks have 309 GB of weights"):
        setup.factory(network, (1, 8, 8), 2)
    assert setup.factory(dataclasses.replace(network, width=8), (1, 8, 8), 2)


def test_the_cache_is_never_a_folder_called_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAJMATCH_CACHE", raising=False)
    monkeypatch.setattr(caches, "_home", lambda: "")
    for home, cache in ((None, None), ("", ""), ("relative", "relative"), ("/nowhere/at/all", "")):
        for name, value in (("HOME", home), ("XDG_CACHE_HOME", cache)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        found = caches.cache_folder()
        assert found.is_absolute()
        assert "~" not in str(found)
        assert found.name == f"trajmatch-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert caches.cache_folder() == tmp_path / "cache" / "trajmatch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caches.cache_folder() == tmp_path / ".cache" / "trajmatch"


def test_records_name_where_they_are_from() -> None:
    with pytest.raises(ValueError, match=r"^set\.safetensors: --ipc is 0 and must be at least 1"):
        merged(Config(), {"ipc": 0}, "set.safetensors")
    assert flags({"outer.lr_images": 2.0}) == ["--outer.lr-images", "2.0"]
