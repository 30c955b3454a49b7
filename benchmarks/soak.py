"""Kill and interrupt a tiny run at random moments, again and again: each must go on to the bits of an undisturbed one.

`python -m benchmarks.soak --kills 100 --signals 60 --folder FOLDER` prints a table of counts, and exits 1 where
anything was lost, left behind or said by a traceback. Every trial is kept in FOLDER/soak-SEED.jsonl, so that the same
command goes on where it was stopped. Moments are shares of the seconds that an undisturbed run takes here, so a slow
machine is no worse judge than a fast one; some are aimed at the start, at the last step and at the report.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import trajmatch
from trajmatch.data.files import write_json
from trajmatch.data.tensors import read_tensors

STEPS = 8
FLAGS = (
    "digits-ipc1", "--network.width", "8", "--experts", "3", "--expert.epochs", "2", "--steps", f"{STEPS}",
    "--matching.inner-steps", "6", "--matching.expert-epochs", "1", "--matching.last-epoch", "2",
    "--evaluation.epochs", "3", "--evaluation.networks", "2", "--evaluation.random-draws", "1",
    "--evaluation.validation-networks", "1", "--outer.threads", "1", "--outer.snapshots", "2",
    "--outer.checkpoint-seconds", "0.1",
)  # fmt: skip
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
AIMS = ("anywhere", "anywhere", "start", "last step", "report")
# Seconds within which the workers of a killed process must have ended.
PATIENCE = 5.0
# How a process ends that has not come to the program's first lines.
NO_HANDLER = "no handler"


@dataclass(frozen=True)
class Trial:
    """One disturbance: which signal, at which share of an undisturbed run or at which event, with how many workers."""

    name: str
    number: str
    aim: str
    share: float
    workers: int


@dataclass
class Outcome:
    """What came of a trial. ended: how the process ended; wrong: all that is not as it must be."""

    trial: Trial
    ended: str
    wrong: list[str] = field(default_factory=list)


def trials(kills: int, signals: int, seed: int) -> list[Trial]:
    """All trials, each a function of the seed and its own number alone; both kinds in turn, for who stops early."""
    found = []
    for k in range(kills + signals):
        kind = f"kill-{k}" if k < kills else f"signal-{k - kills}"
        source = random.Random(f"{seed} {kind}")
        number = "SIGKILL" if k < kills else SIGNALS[(k - kills) % len(SIGNALS)]
        found.append(Trial(kind, number, source.choice(AIMS), source.random(), source.choice((1, 2))))
    turns = [*((k + 1) / kills for k in range(kills)), *((k + 1) / signals for k in range(signals))]
    return [found[k] for k in sorted(range(len(found)), key=turns.__getitem__)]


def heed_all() -> None:
    """Undo what a child would inherit of nohup, or of a shell's background: signals that are ignored test nothing."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(folder: Path, workers: int, resume: bool = False) -> "subprocess.Popen[str]":
    """The tiny run in a process of its own."""
    words = ["run", *FLAGS, "--expert.workers", f"{workers}", "--evaluation.workers", f"{workers}"]
    words += ["--out", str(folder), *(["--resume"] if resume else [])]
    with open(folder.with_suffix(".again.err" if resume else ".err"), "w", encoding="utf-8") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "trajmatch", *words],
            stdout=subprocess.DEVNULL, stderr=errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=heed_all,
        )  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without their times."""
    path = folder / "metrics.jsonl"
    lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def wait_for(aim: str, share: float, seconds: float, folder: Path, process: "subprocess.Popen[str]") -> None:
    """Wait for a trial's moment, or for the process's end."""
    began = time.monotonic()
    if aim in ("anywhere", "start"):
        until = share * seconds * (1.0 if aim == "anywhere" else 0.25)
        while time.monotonic() - began < until and process.poll() is None:
            time.sleep(0.002)
        return
    log, summary = folder / "metrics.jsonl", folder / "summary.json"

    def has_come() -> bool:
        if aim == "report":
            return summary.exists()
        return log.exists() and log.read_bytes().count(b"\n") >= STEPS - 1

    while not has_come() and process.poll() is None:
        time.sleep(0.001)
    time.sleep(share * (0.3 if aim == "report" else 0.6))


def descendants(pid: int) -> set[int]:
    """Processes that a process has started, and those of these; on Linux alone."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def runs(pid: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def differences(folder: Path, whole: Path) -> list[str]:
    """What of a finished run is not as in the undisturbed one."""
    found, wanted = (read_tensors(place / "distilled.safetensors") for place in (folder, whole))
    same = found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)
    wrong = [] if same else ["another set"]
    if rows(folder) != rows(whole):
        wrong.append("another log")
    scores = [json.loads((place / "summary.json").read_text("utf-8"))["accuracy"] for place in (folder, whole)]
    if scores[0] != scores[1]:
        wrong.append("other accuracies")
    if not (folder / "report.html").exists():
        wrong.append("no report")
    wrong += [f"left behind: {path.name}" for path in folder.rglob(".*")]
    return wrong


def tried(trial: Trial, seconds: float, whole: Path, place: Path) -> Outcome:
    """Do one trial: disturb a run, let it go on to its end, and compare."""
    folder = place / trial.name
    shutil.rmtree(folder, ignore_errors=True)
    process = start(folder, trial.workers)
    wait_for(trial.aim, trial.share, seconds, folder, process)
    children = descendants(process.pid)
    late, reported = process.poll() is not None, (folder / "report.html").exists()
    if not late:
        process.send_signal(getattr(signal, trial.number))
    code = process.wait(timeout=120)
    said = folder.with_suffix(".err").read_text("utf-8")
    outcome = Outcome(trial, "too late" if late else ending(code, said, folder))
    wrong = outcome.wrong
    if outcome.ended != NO_HANDLER and ("Traceback" in said or "ignored" in said):
        wrong.append(f"a traceback: {said.strip().splitlines()[-1]}")
    if not late and trial.number != "SIGKILL":
        wrong += lost(code, said, folder, reported)
    until = time.monotonic() + PATIENCE
    while any(map(runs, children)) and time.monotonic() < until:
        time.sleep(0.05)
    wrong += [f"process {pid} runs on" for pid in children if runs(pid)]
    again = start(folder, trial.workers, resume=True).wait(timeout=300)
    if again:
        return Outcome(
            trial, outcome.ended, [*wrong, f"it did not go on: {folder.with_suffix('.again.err').read_text()}"]
        )
    wrong += differences(folder, whole)
    if not wrong:
        shutil.rmtree(folder)
        for name in (".err", ".again.err"):
            folder.with_suffix(name).unlink()
    return outcome


def ending(code: int, said: str, folder: Path) -> str:
    """How a process ended, in a word.

    Before the program's first lines the system ends a process, or Python does, with a traceback of its own: neither is
    the program's to answer, and nothing has begun.
    """
    package = Path(trajmatch.__file__).parent
    frames = [Path(name) for name in re.findall('File "(.*?)"', said)]
    ours = [frame for frame in frames if package in frame.parents and frame.name != "__init__.py"]
    ended_so = code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP) or (code == 1 and "KeyboardInterrupt" in said)
    if ended_so and not ours and not folder.exists():
        return NO_HANDLER
    return f"exit {code}" if code >= 0 else signal.Signals(-code).name


def lost(code: int, said: str, folder: Path, reported: bool) -> list[str]:
    """What is wrong with the end of a process that was sent a signal, where reported is whether all was done then."""
    if code == 130:
        if not folder.exists():  # it may have come before the command was read
            return []
        return [] if "To go on: trajmatch run" in said else [f"it does not say how to go on: {said}"]
    if code == 0:
        return [] if reported else ["exit 0, for the signal was lost"]
    return [] if ending(code, said, folder) == NO_HANDLER else [f"exit {code}: {said}"]


def reference(place: Path) -> float:
    """An undisturbed run, made where it is missing; the seconds that it took."""
    whole, about = place / "whole", place / "whole.json"
    if not about.exists():
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        if start(whole, 1).wait():
            raise ChildProcessError((place / "whole.err").read_text("utf-8"))
        write_json(about, {"seconds": time.monotonic() - began})
    return float(json.loads(about.read_text("utf-8"))["seconds"])


def known(log: Path) -> dict[str, dict[str, Any]]:
    """The trials that are done, by name."""
    lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return {record["trial"]["name"]: record for record in map(json.loads, lines)}


def soak(place: Path, kills: int, signals: int, seed: int) -> list[dict[str, Any]]:
    """Every trial's record, those that are missing done now."""
    place.mkdir(parents=True, exist_ok=True)
    seconds = reference(place)
    log, wanted = place / f"soak-{seed}.jsonl", trials(kills, signals, seed)
    done = known(log)
    for trial in wanted:
        if trial.name in done and done[trial.name]["trial"] == asdict(trial):
            continue
        done[trial.name] = asdict(tried(trial, seconds, place / "whole", place))
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(done[trial.name]) + "\n")
        print(f"{trial.name}: {trial.number}, {trial.aim}: {done[trial.name]['ended']}", file=sys.stderr)
    return [done[trial.name] for trial in wanted]


def table(records: Sequence[dict[str, Any]]) -> list[str]:
    """Counts by signal, aim and end, and all that is wrong."""
    counts = Counter((r["trial"]["number"], r["trial"]["aim"], r["ended"], not r["wrong"]) for r in records)
    lines = [f"{'signal':<10}{'aimed at':<12}{'ended':<12}{'as it must be':>14}{'wrong':>7}"]
    for number, aim, ended in sorted({key[:3] for key in counts}):
        good, bad = counts[number, aim, ended, True], counts[number, aim, ended, False]
        lines.append(f"{number:<10}{aim:<12}{ended:<12}{good:>14}{bad:>7}")
    good = sum(not r["wrong"] for r in records)
    lines.append(f"{'in all':<34}{good:>14}{len(records) - good:>7}")
    lines += [f"{r['trial']['name']}: {'; '.join(r['wrong'])}" for r in records if r["wrong"]]
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0 where all is as it must be, 1 elsewhere."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("soak"))
    given = parser.parse_args(words)
    records = soak(given.folder, given.kills, given.signals, given.seed)
    print("\n".join(table(records)))
    return int(any(record["wrong"] for record in records))


if __name__ == "__main__":
    sys.exit(main())
