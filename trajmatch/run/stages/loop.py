"""The outer loop: steps, checkpoints, snapshots, rollback and resume."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from trajmatch.data.file_names import AFTER, BEFORE, CHECKPOINT, METRICS, SET, SNAPSHOTS
from trajmatch.data.grid import save_png
from trajmatch.data.snapshots import Snapshot, save_snapshot, snapshot_path
from trajmatch.data.synthetic import SyntheticSet, save
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.interrupts import deferred
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.precision import precision
from trajmatch.machine.progress import Meter
from trajmatch.machine.ranks import peers
from trajmatch.methods.outer import probabilities
from trajmatch.methods.schedule import Choice
from trajmatch.methods.state import OuterState, Record
from trajmatch.pages.made import set_settings
from trajmatch.pages.step_log import line, read_metrics
from trajmatch.run.assembly import letters
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.beforehand import check_segments
from trajmatch.run.stages.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, truncate_metrics
from trajmatch.run.stages.experts import expert_settings, told_foreign
from trajmatch.run.stages.feed import Feed
from trajmatch.run.stages.first_rate import first_step_size
from trajmatch.run.stages.pictures import picture
from trajmatch.run.stages.segments import sharing
from trajmatch.run.stages.start import first_images, first_state
from trajmatch.run.stages.steps import STEPS, differentiated_from, matching_of
from trajmatch.settings.config import Config
from trajmatch.settings.flat import DISTILL_FIELDS, flatten, settings
from trajmatch.settings.methods import METHODS

# Steps between the states that a rollback may return to. A state of a few steps before a non-finite loss may be bad
# already, so the last but one is returned to: it is at least so many steps old, or the beginning.
ANCHOR_STEPS = 20
# How far a learned step size may go from the first, as a factor, before that is said.
FAR = 1000.0


# Told after every step: a few words about it, and by how many steps the loop is further.
OnStep = Callable[[str, int], None]


class DivergedError(FloatingPointError):
    """The loss stopped being finite, twice."""


@dataclass(frozen=True)
class Distilled:
    """What the stage leaves: the set and the seconds that its steps took, over all calls."""

    synthetic: SyntheticSet
    seconds: float


def distill_settings(setup: Setup, num_experts: int) -> dict[str, Any]:
    """What the synthetic set depends on."""
    flat = {k: v for k, v in settings(setup.config, DISTILL_FIELDS).items() if not k.startswith("images.")}
    replay = setup.material.replay
    beside = {"replay": replay.content} if replay is not None and replay.inner else {}
    return {**flat, **expert_settings(setup), "experts": num_experts, **beside}


def snapshot_steps(config: Config) -> list[int]:
    """The steps after which the images are kept: evenly spaced, the last among them, and those that were named."""
    count = min(config.outer.snapshots, config.steps)
    evenly = {round(config.steps * k / count) for k in range(1, count + 1)}
    return sorted(evenly | {step for step in config.outer.snapshot_at if 0 < step <= config.steps})


def distill(setup: Setup, trajectories: list[Trajectory], folder: Path, feed: Feed) -> Distilled:
    """Run the outer loop of a resolved configuration in a run folder; go on from its checkpoint where there is one.

    feed: what is told of it.

    Raises ValueError (settings), OSError (files), DivergedError, KeyboardInterrupt (after saving a checkpoint).
    """
    with deterministic(setup.config.deterministic, setup.device):
        loop = Loop(setup, trajectories, folder, feed)
        LOGGER.info(loop.compute.words())
        if peers():
            LOGGER.info(loop.sharing())
        with Meter("distill", setup.config.steps, loop.checkpoint.step) as meter:
            loop.run(meter.advance)
    if not (folder / CHECKPOINT).exists():  # no step was to be taken
        loop.save()
    if loop.rule.guard is not None and (left_out := guarded(folder, loop.rule.guard)):
        LOGGER.info(
            f"{left_out} of {setup.config.steps} steps changed nothing: "
            "their loss was above --outer.guard or not finite"
        )
    synthetic = delivered(setup, loop.checkpoint.state)
    if told := told_foreign(trajectories):
        synthetic = replace(synthetic, info={**synthetic.info, "experts": f"{len(trajectories)} experts{told}"})
    if (lost := lost_step_size(synthetic.eta, float(loop.first.eta))) is not None:
        LOGGER.warning(lost)
    draw_pictures(setup, trajectories, synthetic, folder)
    if setup.config.steps not in loop.kept_steps:
        feed.show(picture(setup, synthetic.X))
    save(synthetic, folder / SET)  # last: it says that the stage is done
    return Distilled(synthetic, loop.checkpoint.seconds)


def guarded(folder: Path, guard: float) -> int:
    """How many steps of a run's log the guard has left out, of those that match segments of experts."""
    matched = (row for row in read_metrics(folder / METRICS)[0] if row["experts"])
    return sum(row["loss"] is None or row["loss"] > guard for row in matched)


def lost_step_size(eta: float, first: float) -> str | None:
    """What to say of a learned step size that has run away from the first one; None where it has not.

    Such a value is positive and finite, so nothing refuses it, and networks learn nothing with it.
    """
    if 1 / FAR <= eta / first <= FAR:
        return None
    way = "above" if eta > first else "below"
    return (
        f"the learned step size {eta:.3g} is more than {FAR:g} times {way} the first, {first:g}: the set is likely "
        "worth nothing; lower --outer.lr-step-size, or keep the step size by --matching.rate fixed"
    )


def draw_pictures(setup: Setup, trajectories: list[Trajectory], synthetic: SyntheticSet, folder: Path) -> None:
    """Write the pictures of a set before and after, where they are missing."""
    for name in (BEFORE, AFTER):
        if not (folder / name).exists():
            X = first_images(setup.on_cpu(), trajectories) if name == BEFORE else synthetic.X
            save_png(picture(setup, X), folder / name)


def check_delivered(path: Path, synthetic: SyntheticSet, state: OuterState) -> None:
    """Raise ValueError where a set is not what the last state of a distillation delivers."""
    if not torch.equal(synthetic.X, state.average.to(synthetic.X)) or synthetic.eta != float(state.eta):
        raise ValueError(
            f"{path} is not the set that this run's {CHECKPOINT} ends with: put back the one that belongs here, or "
            "delete it, and --resume writes it again"
        )


def delivered(setup: Setup, state: OuterState) -> SyntheticSet:
    """What a distillation in this state delivers."""
    config, material = setup.config, setup.material
    info = {
        "dataset": material.dataset.name,
        "method": config.method,
        "ipc": config.ipc,
        "steps": config.steps,
        "config": flatten(config),
    }
    X, Y = state.average.cpu(), probabilities(letters.rule(config), state).cpu()
    return SyntheticSet(X, Y, float(state.eta), material.dataset.classes, material.space, info, config.factor)


class Loop:
    """State of the loop: what a step needs, and the checkpoint that it moves."""

    def __init__(self, setup: Setup, trajectories: list[Trajectory], folder: Path, feed: Feed | None = None) -> None:
        config = setup.config
        self.config, self.trajectories, self.folder, self.device = config, trajectories, folder, setup.device
        (folder / SNAPSHOTS).mkdir(exist_ok=True)
        self.rule = letters.rule(config)
        check_segments(config, trajectories)
        self.kept_steps = set(snapshot_steps(config))
        steps = STEPS[METHODS[config.method].steps](setup, trajectories)
        self.take, self.compute, self.prepare = steps.take, steps.compute, steps.prepare
        self.made_with = set_settings(flatten(setup.config))
        self.first = first_state(setup, trajectories)
        about = distill_settings(setup, len(trajectories))
        path = folder / CHECKPOINT
        if path.exists():
            loaded = load_checkpoint(path, about, self.first)
            found = (loaded.state, loaded.anchor, loaded.older)
            state, anchor, older = (OuterState(*self._placed(one)) for one in found)
            if config.outer.threads is None and loaded.threads is not None:
                # On another machine, or beside other ranks, another number would change the last bits.
                self.compute = replace(self.compute, threads=loaded.threads)
            self.checkpoint = Checkpoint(state, anchor, older, loaded.seconds, about, self.compute.threads)
        else:
            matching = matching_of(self.take)
            if config.outer.step_size is None and matching is not None:
                torch.set_num_threads(self.compute.threads)
                eta = first_step_size(matching, self.first)
                self.first = self.first._replace(eta=torch.full_like(self.first.eta, eta))
            self.checkpoint = Checkpoint(self.first, self.first, self.first, 0.0, about, self.compute.threads)
        truncate_metrics(folder / METRICS, self.checkpoint.step)
        self.feed = feed or Feed()
        self.feed.begin(folder / METRICS, self.checkpoint.step)

    def _placed(self, state: OuterState) -> list[torch.Tensor]:
        return [v if k == "steps" else v.to(self.device) for k, v in state._asdict().items()]

    def sharing(self) -> str:
        """How a step's work is shared out over the ranks of a job, in words."""
        config, images = self.config, self.config.matching.batch or len(self.first.X) * self.config.factor**2
        if METHODS[config.method].condenses:
            return f"ranks: {len(peers()) + 1}, of which one takes the steps of {config.method}, and the others wait"
        segments = 1 if self.compute.together else self.compute.segments
        return sharing(segments, images, self.compute.engine.micro_batch)

    def run(self, on_step: OnStep = lambda details, count: None) -> None:
        """Steps until the last, with checkpoints in between and one at the end, also when interrupted."""
        begun, steps, saved = self.checkpoint, self.config.steps, time.monotonic()
        torch.set_num_threads(self.compute.threads)
        with deferred() as check_interrupt:
            try:
                while self.checkpoint.step < steps:
                    check_interrupt()
                    before = self.checkpoint.step
                    on_step(self.step(), self.checkpoint.step - before)
                    if time.monotonic() - saved > self.config.outer.checkpoint_seconds:
                        self.save()
                        saved = time.monotonic()
            finally:
                # Also on Ctrl-C and on errors: what has been computed is kept.
                if self.checkpoint is not begun:
                    self.save()

    def step(self) -> str:
        """One outer step, or a roll-back; a few words about it."""
        before, began = self.checkpoint, time.monotonic()
        with precision(self.config.precision):
            state, record, choices = self.take(before.state)
        row = _row(before.step + 1, record, choices)
        seconds = before.seconds + time.monotonic() - began
        if row is None:
            self.roll_back(record, seconds)
            return f"step {before.step + 1} was not finite: back to {self.checkpoint.step} with half the learning rate"
        with open(self.folder / METRICS, "a", encoding="utf-8") as log:
            log.write(line({**row, "seconds": round(seconds, 3)}) + "\n")
        self.feed.add({**row, "seconds": round(seconds, 3)})
        if int(state.steps) in self.kept_steps:
            self.keep(state)
        kept = int(state.steps) % ANCHOR_STEPS == 0
        anchors = (state, before.anchor) if kept else (before.anchor, before.older)
        # Last, in one assignment: an interrupt before it leaves a step that was not taken.
        self.checkpoint = Checkpoint(state, *anchors, seconds, before.settings, before.threads)
        loss = "loss not finite, step left out" if row["loss"] is None else f"loss {row['loss']:.3f}"
        return f"{loss}, step size {row['step_size']:.4f}"

    def roll_back(self, record: Record, seconds: float) -> None:
        """Return to the older anchor with half the image learning rate, once. Raises DivergedError the second time."""
        before = self.checkpoint
        if float(before.state.scale) < 1:
            method = METHODS[self.config.method]
            of_real = method.through_training and before.step >= differentiated_from(self.config)
            rate = "--baseline.lr-images" if method.condenses or of_real else "--outer.lr-images"
            raise DivergedError(
                f"step {before.step + 1}: the loss is {float(record.loss):.3g} and the step size "
                f"{float(record.step_size):.3g}, and halving the image learning rate did not help; the last good state "
                f"is saved. Start anew with a lower {rate} or --outer.lr-step-size"
            )
        back = before.older._replace(scale=before.older.scale / 2)
        self.checkpoint = Checkpoint(back, back, back, seconds, before.settings, before.threads)
        # Before the log is cut: a checkpoint of a later step would go on with a log that lacks the steps before it.
        self.save()
        truncate_metrics(self.folder / METRICS, int(back.steps))
        self.feed.back(int(back.steps))

    def save(self) -> None:
        """Write the checkpoint; the rows it vouches for are in the log already."""
        save_checkpoint(self.folder / CHECKPOINT, self.checkpoint)
        self.feed.settle(self.checkpoint.step)

    def keep(self, state: OuterState) -> None:
        """Keep the images of now, among which validation will choose."""
        step = int(state.steps)
        Y = probabilities(self.rule, state)
        save_snapshot(snapshot_path(self.folder, step), Snapshot(step, state.average, Y, state.eta), self.made_with)


def _row(step: int, record: Record, choices: list[Choice]) -> dict[str, Any] | None:
    """A step's line in the log, None where the step was not finite, and not left out for it by a guard."""
    fields = [name for name in record._fields if name != "ends"]
    scalars = {name: value for name in fields if (value := getattr(record, name)) is not None}
    # One transfer, and with it the only time in a step that this process waits for a GPU.
    values = torch.stack([value.to(record.loss.dtype) for value in scalars.values()]).tolist()
    found = dict.fromkeys(fields) | dict(zip(scalars, values, strict=True))
    if not found.pop("healthy"):
        return None
    return {
        "step": step,
        # JSON has no NaN.
        **{name: value if value is None or isfinite(value) else None for name, value in found.items()},
        "experts": [e for e, _ in choices],
        "start_epochs": [t for _, t in choices],
        # Only where a trajectory may end early: logs of before lack it.
        **({} if record.ends is None else {"end": list(record.ends)}),
    }
