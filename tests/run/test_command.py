"""What a command says of itself: help that holds, flags that are nearly one, and quiet ends."""

import subprocess
import sys

import pytest

from trajmatch.run.cli import main

Captured = pytest.CaptureFixture[str]


def shown(text: str, name: str) -> str:
    """The help of a flag, on one line."""
    lines = text.replace("│", " ").splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == [name])
    end = next(i for i in range(start + 1, len(lines)) if lines[i].split()[:1] and lines[i].split()[0].startswith("--"))
    return " ".join(" ".join(lines[start:end]).split())


@pytest.mark.parametrize(
    ("words", "steps", "depth", "normalise"),
    [
        (["run", "--help"], 250, 2, "channel"),
        (["run", "--data", "digits", "--help"], 250, 2, "channel"),
        (["run", "--data", "x", "--help"], 500, 3, "zca"),
        (["distill", "--help", "--data=x"], 500, 3, "zca"),
        (["run", "digits-ipc10", "--data", "x", "--help"], 200, 2, "channel"),
    ],
)
def test_help_shows_what_will_hold(words: list[str], steps: int, depth: int, normalise: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name, value in (("--steps", steps), ("--network.depth", depth), ("--images.normalise", normalise)):
        assert f"(default: {value})" in shown(text, name)
    assert ("the images decide, where no flag does: --images.size" in " ".join(text.split())) == (steps == 500)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--netwroks", "mlp"], "there is no flag --netwroks; did you mean --networks?"),
        (["run", "--expert.epohcs=3"], "there is no flag --expert.epohcs; did you mean --expert.epochs?"),
        (["run", "--step", "3"], "there is no flag --step; did you mean --steps?"),
        (["run", "--no-images.holdout"], "there is no flag --no-images.holdout; did you mean --images.hold-out?"),
        (["compare", "a", "--ot", "b"], "there is no flag --ot; did you mean --out?"),
        (["run", "--minuts", "3"], "there is no flag --minuts; did you mean --minutes?"),
    ],
)
def test_a_flag_that_is_nearly_one(words: list[str], says: str, capsys: Captured) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err == f"trajmatch: {says}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of POSIX")
@pytest.mark.parametrize("words", [["presets"], ["run", "--help"]])
def test_who_has_read_enough_ends_the_command_quietly(words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trajmatch", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


def test_a_wrong_time_for_ranks_is_said_by_the_first_alone(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRAJMATCH_RANK_TIMEOUT", "soon")
    assert main(["run"]) == 2
    assert capsys.readouterr().err == ""
