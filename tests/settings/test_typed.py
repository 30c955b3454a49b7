"""Words that the command line can't take: one exact sentence each, and none is left for the parser to tell in a box."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajmatch.run.cli import main
from trajmatch.settings.command_line import configuration
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.kinds import checked, flag, kinds, with_setting
from trajmatch.settings.options import Evaluate
from trajmatch.settings.typed import Typed, grouped
from trajmatch.settings.words import written_out

Captured = pytest.CaptureFixture[str]
METHODS = (
    "mtt, ftd, tesla, datm, satm, satm-fi, satm-da, contra, satm-contra, random, herding, k-center, dc, dsa, dm, mdc, "
    "rat-bptt, at-bptt, satm-bptt"
)
OF_EVALUATE = "is of trajmatch evaluate, which scores a set in this way"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        # values of another type
        ("run --ipc ten", "--ipc is 'ten' and must be a whole number"),
        ("run --ipc=1.5", "--ipc is '1.5' and must be a whole number"),
        ("run --matching.radius wide", "--matching.radius is 'wide' and must be a number"),
        ("run --expert.save_every often", "--expert.save-every is 'often' and must be a whole number"),
        ("run --outer.step-size none", "--outer.step-size is 'none' and must be a number"),
        ("run --seed -inf", "--seed is '-inf' and must be a whole number"),
        ("run --outer.snapshot-at 5 last", "--outer.snapshot-at has 'last' and must be a whole number"),
        # words that are none of the choices
        ("run --method sattm", f"--method is 'sattm' and must be one of {METHODS}; did you mean satm?"),
        ("run --method zzz", f"--method is 'zzz' and must be one of {METHODS}"),
        (
            "run --images.colour gray",
            "--images.colour is 'gray' and must be one of auto, grey, rgb; did you mean grey?",
        ),
        ("run --engine foo", "--engine is 'foo' and must be one of auto, eager, fused, compiled"),
        ("run --log foo", "--log has 'foo' and must be one of tensorboard, wandb, trackio"),
        (
            "run --matching.sharpness gsan",
            "--matching.sharpness is 'gsan' and must be one of auto, none, sam, asam, gsam, vasso, satm, "
            "or MODULE:NAME, code of your own; did you mean gsam?",
        ),
        # too few and too many words
        ("run --data", "--data needs a value"),
        ("run --data --steps 3", "--data needs a value"),
        ("run --log --steps 3", "--log needs at least one value"),
        (
            "run digits-ipc1 digits-ipc10",
            "'digits-ipc10' is one name too many: only flags can follow here; see trajmatch run --help",
        ),
        ("run --ipc 1 2", "'2' is one word too many: --ipc takes one value"),
        (
            "run --ipc 1 digits-ipc1",
            "'digits-ipc1' is one word too many: --ipc takes one value; a name stands right after the verb",
        ),
        ("run --resume=maybe", "--resume is 'maybe' and must have no value: --resume says yes, --no-resume says no"),
        (
            "run --images.no-hold-out=yes",
            "--images.no-hold-out is 'yes' and must have no value: --images.hold-out says yes, "
            "--images.no-hold-out says no",
        ),
        ("run --resume true", "'true' is one word too many: --resume takes no value"),
        (
            "run --resume digits-ipc1",
            "'digits-ipc1' is one word too many: --resume takes no value; a name stands right after the verb",
        ),
        ("run --flat maybe", "--flat is 'maybe' and must have no value: it is short for --expert.flat yes"),
        ("run --flat=no", "--flat is 'no' and must have no value: it is short for --expert.flat yes"),
        # flags that there are not
        ("run --no-such-flag 3", "there is no flag --no-such-flag; see trajmatch run --help"),
        ("run --xyz=3", "there is no flag --xyz; see trajmatch run --help"),
        ("run -x 3", "there is no flag -x; see trajmatch run --help"),
        ("run -ipc 3", "there is no flag -ipc; did you mean --ipc?"),
        ("run --no-ipc", "there is no flag --no-ipc; did you mean --ipc?"),
        ("run --", "there is no flag --; see trajmatch run --help"),
        ("search --networks mlp", f"--networks {OF_EVALUATE}; search does not heed it"),
        # options of single verbs
        ("run --minutes soon", "--minutes is 'soon' and must be a number"),
        ("run --minutes 0", "--minutes is 0.0 and must be above 0"),
        ("plan --ranks two", "--ranks is 'two' and must be a whole number"),
        ("continual --orders few", "--orders is 'few' and must be a whole number"),
        ("continual --replay all", "--replay is 'all' and must be one of none, experts, students, both"),
        ("evaluate --sizes 1 two", "--sizes has 'two' and must be a whole number"),
        ("evaluate --rates 0.1 quick", "--rates has 'quick' and must be a number"),
        ("evaluate --networks", "--networks needs at least one value"),
        ("search --depths 1 deep", "--depths has 'deep' and must be a whole number"),
        ("search --depths --widths 4", "--depths needs at least one value"),
        (
            "search --norms instanc",
            "--norms has 'instanc' and must be one of instance, group, layer, batch, none; did you mean instance?",
        ),
        ("export a --format jpg", "--format is 'jpg' and must be one of folder, parquet, npz, mtt, ddranking"),
        ("export a --format", "--format needs a value"),
        ("export a jpg", "'jpg' is one name too many: only flags can follow here; see trajmatch export --help"),
        ("export a --xyz", "there is no flag --xyz; see trajmatch export --help"),
        ("import a --mean 0.5 grey", "--mean has 'grey' and must be a number"),
        ("import a --step-size fast", "--step-size is 'fast' and must be a number"),
        ("diagnose nearest --grid 1", "--grid is 1 and must be at least 3"),
        ("diagnose nearest --run", "--run needs at least one value"),
        ("diagnose nearest --engine fast", "--engine is 'fast' and must be one of auto, eager, fused, compiled"),
        ("compare a --out", "--out needs a value"),
        ("compare a --out b c", "'c' is one word too many: --out takes one value; a name stands right after the verb"),
        ("push a b c", "'c' is one name too many: only flags can follow here; see trajmatch push --help"),
        ("report a b", "'b' is one name too many: only flags can follow here; see trajmatch report --help"),
        ("report a --xyz", "there is no flag --xyz; see trajmatch report --help"),
        ("presets --method mtt", "--method is of one preset: name it first, trajmatch presets PRESET"),
    ],
)
def test_one_exact_sentence_each(
    line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    # Verbs of sets need one before they know their settings.
    monkeypatch.setattr("trajmatch.run.cli.base_configuration", lambda path: {})
    assert main(line.split()) == 2
    assert capsys.readouterr() == ("", f"trajmatch: {says}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "text"), [("ipc", "ten"), ("method", "sattm"), ("matching.radius", "wide"), ("engine", "foo")]
)
def test_files_and_python_say_the_same_of_the_same_value(key: str, text: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{key}: {text}\n")
    with pytest.raises(ValueError, match="must be") as from_file:
        read_config(path)
    with pytest.raises(ValueError, match="must be") as from_python:
        checked(with_setting(Config(), key, text))
    assert main(["run", flag(key), text]) == 2
    assert capsys.readouterr().err == f"trajmatch: {from_python.value}\n"
    assert str(from_file.value) == f"{path}: {from_python.value}"


def test_words_are_grouped_by_flags() -> None:
    words = ["a", "--seed", "-5", "--x=-y", "-inf", "--no-z", "-q", "3"]
    assert grouped(words) == [
        Typed("", ["a"]),
        Typed("--seed", ["-5"]),
        Typed("--x", ["-y", "-inf"], attached=True),
        Typed("--no-z", []),
        Typed("-q", ["3"]),
    ]
    assert grouped([]) == []


NAMES = [flag(key) for record in (Config, Evaluate) for key in kinds(record)]
VALUES = ["3", "0.5", "-5", "-inf", "-.5", "None", "none", "true", "sgd", "mlp", "-x", "--", "-", "--3", "a=b"]
TYPED = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(["--resume", "--no-resume", "--images.no-hold-out", "--flat", "--images.hold_out", "--no-ipc"]),
    st.sampled_from(VALUES),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(TYPED, max_size=4))
def test_nothing_is_left_for_the_parser_to_refuse(words: list[str]) -> None:
    with suppress(ValueError):  # and no SystemExit, the parser's own
        configuration("trajmatch evaluate", Config(), words, Evaluate)


@pytest.mark.parametrize("beside", ["", "--ipc ten", "--method sattm", "--no-such-flag", "digits-ipc10", "--flat no"])
def test_help_is_the_same_whatever_stands_beside_it(beside: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as alone:
        main(["run", "digits-ipc1", "--help"])
    shown = capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["run", "digits-ipc1", *beside.split(), "-h"])
    assert (alone.value.code, ended.value.code) == (0, 0)
    assert capsys.readouterr() == shown
    assert shown.out.startswith("usage: trajmatch run [-h]")


def test_a_flag_with_a_value_of_its_own_stands_before_others() -> None:
    assert written_out(["--flat", "--ipc", "3"]) == ["--expert.flat", "yes", "--ipc", "3"]
    assert written_out(["--flat"]) == ["--expert.flat", "yes"]


def test_a_process_ends_with_code_2_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trajmatch", "run", "--ipc", "ten"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "trajmatch: --ipc is 'ten' and must be a whole number\n"
