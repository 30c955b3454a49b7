"""`trajmatch plan`: what it says of a small run, beside what the run then takes. Times are never tested."""

from pathlib import Path

import pytest

from tests.small import FLAGS, command, succeed
from trajmatch.methods.schedule import Window
from trajmatch.run.cli import main
from trajmatch.run.stages import plan as planning
from trajmatch.run.stages.plan import Plan, Stage, per_step
from trajmatch.settings.config import Config, Matching


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "LONG_ENOUGH", 0.01)


def words(verb: str, *flags: object) -> list[str]:
    # Wide enough that experts weigh more than pictures, whose sizes are a guess.
    return command(verb, "--experts", 3, "--steps", 8, "--network.width", 48, *flags)


def folder_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def number(text: str) -> float:
    value, unit = text.split()
    return float(value) * {"MB": 1, "GB": 1000}[unit]


@pytest.mark.parametrize("storage", ["float32", "fp16-deltas"])
def test_the_disk_of_a_run_is_foreseen(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    succeed(*words("plan", "--expert.storage", storage))
    lines = capsys.readouterr().out.splitlines()
    assert list(tmp_path.iterdir()) == []
    table = {line.split("  ")[0]: line.split("  ") for line in lines}
    assert {"data", "experts", "distill", "evaluate", "in all"} <= set(table)
    foreseen = {
        name: number([cell for cell in cells if cell][-1].strip())
        for name, cells in table.items()
        if name in ("experts", "in all")
    }
    succeed(*words("run", "--expert.storage", storage, "--out", "run"))
    assert foreseen["experts"] == pytest.approx(folder_mb(tmp_path / "run" / "experts"), rel=0.25)
    assert foreseen["in all"] == pytest.approx(folder_mb(tmp_path / "run"), rel=0.25)


def test_experts_that_are_there_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*words("experts", "--out", tmp_path / "experts"))
    capsys.readouterr()
    succeed(*words("plan", "--experts", tmp_path / "experts", "--micro-batch", "3", "--engine", "eager"))
    out = capsys.readouterr().out
    assert "\nexperts" not in out
    assert out.startswith("engine: eager (as asked), float32, 3 images at a time, 1 thread\n")


def test_bad_input_is_refused_as_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "digits-ipc1", "--matching.restart-step", "99"]) == 2
    assert "--matching.restart-step is 99" in capsys.readouterr().err
    for verb in ("plan", "run"):
        assert main([verb, *FLAGS, "--experts", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        assert f"--experts: {tmp_path} holds no experts; trajmatch experts --out" in capsys.readouterr().err
    assert main(["plan", *FLAGS, "--memory", "1MB"]) == 2
    assert "--memory is 1 MB" in capsys.readouterr().err


def test_totals() -> None:
    stages = (Stage("a", 60.0, 500.0, 3.0), Stage("b", 3600.0, 1500.0, 2000.0))
    plan = Plan(stages, "engine: x", 7.0, 9.0)
    assert (plan.seconds, plan.memory_mb, plan.disk_mb) == (3660.0, 1500.0, 2003.0)
    text = "\n".join(plan.lines())
    for part in ("engine: x", "1:01 h", "1.50 GB", "2.00 GB", "9.0 MB of the GPU's memory", "7.0 MB on disk"):
        assert part in text


def test_a_step_is_timed_by_its_median_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 7.0, 8.0, 10.0, 13.0])
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(clock))
    assert per_step(range(1, 6), warm=2) == 2.0


@pytest.mark.parametrize(("ends", "wanted"), [([0.0, 40.0], 40.0), ([0.0, 2.0, 5.0, 12.0, 17.0], 6.0)])
def test_steps_are_measured_no_longer_than_there_is_patience(
    ends: list[float], wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(ends)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(clock))
    assert per_step(range(100), warm=2) == wanted
    assert next(clock, None) is None


def test_a_step_is_averaged_over_a_run_whose_segments_become_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        """One that takes 10 s for each segment."""

        config = Config(steps=9, matching=Matching(segments=3, concurrent_from=6))
        take = planning.Matching(None, [], None, None, Window(0, 2, segments=3, since=6))  # type: ignore[arg-type]

        def step(self) -> int:
            return self.take.schedule.concurrent(0)

    monkeypatch.setattr(planning, "per_step", lambda steps, warm: 10.0 * next(iter(steps)))
    loop = Loop()
    assert planning.seconds_of_step(loop) == pytest.approx((6 * 10 + 3 * 30) / 9)  # type: ignore[arg-type]
    assert loop.take == Loop.take


@pytest.mark.parametrize("method", ["datm", "tesla", "satm-contra"])
def test_every_method_can_be_planned(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*words("plan", "--method", method))
    assert "in all" in capsys.readouterr().out
