"""`trajmatch plan`: what it says of a small run, beside what the run then takes. Times are never tested."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import FLAGS, command, succeed
from trajmatch.core.descent import Adam
from trajmatch.methods.outer import Rule
from trajmatch.methods.schedule import Window
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.cli import main
from trajmatch.run.stages import plan_steps
from trajmatch.run.stages.checkpoint import Checkpoint
from trajmatch.run.stages.plan import Plan
from trajmatch.run.stages.plan_ranks import (
    Counted,
    OverRanks,
    Shared,
    Stage,
    Traffic,
    chunk_traffic,
    distilling,
    step_share,
)
from trajmatch.run.stages.plan_steps import Phase, per_step
from trajmatch.run.stages.real_batches import RealBatches
from trajmatch.settings.config import Config, Matching


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_steps, "LONG_ENOUGH", 0.01)


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
    monkeypatch.setattr(plan_steps.time, "perf_counter", lambda: next(clock))
    assert per_step(range(1, 6), warm=2) == 2.0


@pytest.mark.parametrize(("ends", "wanted"), [([0.0, 40.0], 40.0), ([0.0, 2.0, 5.0, 12.0, 17.0], 6.0)])
def test_steps_are_measured_no_longer_than_there_is_patience(
    ends: list[float], wanted: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(ends)
    monkeypatch.setattr(plan_steps.time, "perf_counter", lambda: next(clock))
    assert per_step(range(100), warm=2) == wanted
    assert next(clock, None) is None


def test_a_step_is_averaged_over_a_run_whose_segments_become_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        """One that takes 10 s for each segment."""

        config = Config(steps=9, matching=Matching(segments=3, concurrent_from=6))
        take = plan_steps.Matching(None, [], None, None, Window(0, 2, segments=3, since=6))  # type: ignore[arg-type]

        def step(self) -> int:
            return self.take.schedule.concurrent(0)

    monkeypatch.setattr(plan_steps, "per_step", lambda steps, warm: 10.0 * next(iter(steps)))
    loop = Loop()
    found = plan_steps.seconds_of_step(loop)  # type: ignore[arg-type]
    assert found == [Phase(6 / 9, 1, 10.0), Phase(1 - 6 / 9, 3, 30.0)]
    assert loop.take == Loop.take


@pytest.mark.parametrize(
    ("method", "flags", "most"),
    [("satm", (), 1), ("contra", (), 1), ("at-bptt", (), 1), ("satm-bptt", ("--baseline.since", 2), 1),
     ("contra", ("--ranks", 2), 1), ("satm", ("--ranks", 2, "--matching.segments", 2), 2)],
)  # fmt: skip
def test_steps_that_are_too_long_are_not_taken_whole(
    method: str,
    flags: tuple[object, ...],
    most: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = []

    def spied(kind: type[plan_steps.Matching] | type[plan_steps.ThroughTraining]) -> None:
        take = kind.__call__

        def spy(self: Any, state: OuterState) -> Any:
            lengths.append(self.rule.T)
            return take(self, state)

        monkeypatch.setattr(kind, "__call__", spy)

    spied(plan_steps.Matching)
    spied(plan_steps.ThroughTraining)
    monkeypatch.setattr(plan_steps, "PATIENCE", 0.0)
    succeed(*words("plan", "--method", method, "--matching.inner-steps", 40, *flags))
    found = capsys.readouterr()
    assert set(lengths) == set(range(1, most + 1)), "there is no time for more"
    assert "distill: a step would take" in found.err
    assert "so its time follows from steps of at most 3 inner steps, all of them differentiated" in found.err
    assert "in all" in found.out


@pytest.mark.parametrize("patience", [15.0, 0.0])
@pytest.mark.parametrize("method", ["dm", "rat-bptt", "satm-bptt"])
def test_what_is_done_once_is_counted_once(
    method: str, patience: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    prepare, draw = RealBatches.prepare, RealBatches.draw

    def drawn(self: RealBatches, source: torch.Generator) -> list[torch.Tensor]:
        assert "_seen" in vars(self), "the plan has prepared what a first step would be slow for"
        return draw(self, source)

    monkeypatch.setattr(RealBatches, "draw", drawn)
    monkeypatch.setattr(RealBatches, "prepare", lambda self: (done.append("once"), prepare(self))[1])
    monkeypatch.setattr(plan_steps, "_seconds", lambda prepare: (prepare(), 3600.0)[1])
    monkeypatch.setattr(plan_steps, "PATIENCE", patience)
    succeed(*words("plan", "--method", method, *(["--baseline.since", 2] if method == "satm-bptt" else [])))
    assert done == ["once"]
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("distill"))
    assert " 1:00" in row


def test_a_long_step_follows_from_two_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        """Its steps take 3 s and 2 s for each inner step, and the first 10 s more."""

        config = Config(steps=9)
        take = plan_steps.Matching(None, [], Rule(50, 10, Adam(1.0), Adam(1.0)), None, Window(0, 2))  # type: ignore[arg-type]
        checkpoint = Checkpoint(*[new_state(torch.zeros(1), torch.zeros(1), 0.1)] * 3, 0.0, {}, 1)
        compiled = False

        def step(self) -> None:
            seconds = 3 + 2 * self.take.rule.T + (0 if self.compiled else 10)
            self.compiled = True
            self.checkpoint = replace(self.checkpoint, seconds=self.checkpoint.seconds + seconds)

    loop = Loop()
    assert plan_steps.too_long(loop) == [Phase(1.0, 1, 250.0)], "15 s for one inner step are too long to take three"  # type: ignore[arg-type]
    monkeypatch.setattr(plan_steps, "PATIENCE", 25.0)
    loop = Loop()
    assert plan_steps.too_long(loop) == [Phase(1.0, 1, 103.0)]  # type: ignore[arg-type]
    assert loop.take == Loop.take
    assert loop.checkpoint.seconds == 15 + 5 + 9, "which compiling is among"
    loop.take = replace(loop.take, rule=replace(loop.take.rule, T=4))
    assert plan_steps.too_long(loop) == [], "11 s are few"
    loop.take = replace(loop.take, rule=replace(loop.take.rule, T=3))
    assert plan_steps.too_long(loop) == []
    assert loop.checkpoint.seconds == 29 + 19, "a step of three inner steps is short itself"


@pytest.mark.parametrize("method", ["datm", "tesla", "satm-contra"])
def test_every_method_can_be_planned(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*words("plan", "--method", method))
    assert "in all" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("segments", "chunks", "ranks", "share"),
    [(4, 1, 1, 1), (4, 1, 2, 1 / 2), (4, 1, 3, 1 / 2), (4, 1, 4, 1 / 4), (4, 1, 9, 1 / 4), (1, 5, 2, 3 / 5),
     (2, 6, 5, 1 / 4), (2, 6, 6, 1 / 6), (1, 3, 8, 1 / 3)],
)  # fmt: skip
def test_the_slowest_ranks_share_of_a_step(segments: int, chunks: int, ranks: int, share: float) -> None:
    assert step_share(segments, chunks, ranks) == pytest.approx(share)


def test_who_would_wait() -> None:
    config = Config(method="contra")
    assert distilling(config, 4, 1, 4) == []
    (said,) = distilling(config, 4, 1, 6)
    assert said.startswith("distill: 2 of 6 ranks wait; --micro-batch shares")
    assert distilling(config, 4, 2, 6) == []
    (said,) = distilling(config, 1, 3, 4)
    assert said.startswith("distill: 1 of 4 ranks waits; a smaller --micro-batch")
    (said,) = distilling(Config(method="dm"), 1, 1, 3)
    assert said == "distill: 2 of 3 ranks wait; the steps of dm are not shared out"


def test_traffic_of_chunks_by_hand() -> None:
    config = Config(matching=Matching(inner_steps=6, differentiated_steps=2))
    # 2 helpers for 5 chunks on 3 ranks, of which rank 0 has 2: 3 chunks come back.
    assert chunk_traffic(config, 10, 5, 3) == Traffic(4 * 10 * 2 * (6 + 2 * 2), 4 * 10 * 3 * (6 + 2))
    assert chunk_traffic(config, 10, 1, 3) == Traffic()


def test_a_table_of_ranks() -> None:
    stages = (Stage("a", 60.0, 500.0, 3.0, Shared(20.0, 90.0)), Stage("b", 3600.0, 400.0))
    over = OverRanks(4, Traffic(3e9, 1e9), ("who waits",), together=True)
    lines = Plan(stages, "engine: x", 7.0, None, over).lines()
    assert lines[1].split("  ")[-5:] != lines[2].split("  ")[-5:]
    assert [word in lines[1] for word in ("time with 1", "with 4", "memory of rank 0", "of another")] == [True] * 4
    assert lines[2].split() == ["a", "1:00", "min", "20", "s", "500", "MB", "90", "MB", "3.0", "MB"]
    assert lines[4].split() == ["in", "all", "1:01", "h", "1:00", "h", "500", "MB", "400", "MB", "3.0", "MB"]
    text = "\n".join(lines)
    for part in ("who waits", "sends 3e+03 MB and receives 1e+03 MB, which takes 4 s", "one by one"):
        assert part in text


def test_what_would_travel_is_what_travels(experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of a step on two ranks, counted where messages are made."""
    from tests.small import FLAGS as SMALL
    from trajmatch.run.stages import segments
    from trajmatch.run.stages.loop import Loop
    from trajmatch.run.stages.run import Run
    from trajmatch.settings.command_line import settings_of

    found = {"sent": 0, "received": 0}

    class Other:
        """Rank 1, in this process."""

        rank = 1

        def ask(self, function, *arguments, tensors):  # type: ignore[no-untyped-def]
            found["sent"] += sum(t.nbytes for t in tensors)
            self.found = function(None, *arguments, *tensors)

        def answer(self):  # type: ignore[no-untyped-def]
            found["received"] += sum(t.nbytes for t in self.found[1])
            return self.found

    flags = ["--method", "satm", "--matching.segments", "3", "--steps", "4", "--experts", str(experts)]
    config = settings_of("distill", SMALL[0], [*SMALL[1:], *flags]).config
    this = Run(config, tmp_path / "run", "test")
    loop = Loop(this.setup, this.trajectories, tmp_path / "run")
    take = loop.take
    assert isinstance(take, plan_steps.Matching)
    counted = Counted(take.rule, 2)
    loop.take = plan_steps.replace(take, each=counted)
    loop.step()
    monkeypatch.setattr(segments, "peers", lambda: [Other()])
    local = segments.Chunks(
        segments.Learner(this.config, this.setup.dataset.shape, 10, loop.compute.engine), take.student
    )
    loop.take = plan_steps.replace(take, each=segments.Spread(take.rule, local))
    loop.step()
    assert counted.calls == 2
    assert (counted.sent, counted.received) == (found["sent"], found["received"])
    assert counted.sent > 0


@pytest.mark.parametrize("method", ["satm", "contra"])
def test_as_much_travels_in_a_short_step(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = words("plan", "--method", method, "--matching.segments", 3, "--matching.inner-steps", 12, "--ranks", 2)
    succeed(*given)
    whole = [line for line in capsys.readouterr().out.splitlines() if "in a step rank 0 sends" in line]
    monkeypatch.setattr(plan_steps, "PATIENCE", 0.0)
    succeed(*given)
    found = capsys.readouterr()
    assert "a step would take" in found.err
    assert whole == [line for line in found.out.splitlines() if "in a step rank 0 sends" in line] != []


def test_a_plan_of_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(*words("plan", "--method", "contra", "--ranks", "3"))
    out = capsys.readouterr().out
    for part in ("time with 1", "with 3", "in a step rank 0 sends ", "3 ranks: each is taken to be as fast"):
        assert part in out
    assert main(["plan", *FLAGS, "--ranks", "0"]) == 2
    assert "--ranks" in capsys.readouterr().err
