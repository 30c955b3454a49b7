"""What the verbs do: run, experts, distill, evaluate. `cli.py` is how they are called."""

import time
import weakref
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trajmatch.data import synthetic as sets
from trajmatch.data.checksums import identity
from trajmatch.data.file_names import CHECKPOINT, EVALUATION, EXPERTS_JSON, METRICS, SET, SUMMARY
from trajmatch.data.files import write_record
from trajmatch.data.kept import BELONGS, other
from trajmatch.data.material import Material
from trajmatch.data.space_file import restore
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine import holding
from trajmatch.machine.lock import Lock
from trajmatch.machine.memory import peak_memory_mb
from trajmatch.machine.messages import LOGGER, counted
from trajmatch.machine.processes import Peak, cores
from trajmatch.pages import records as shapes
from trajmatch.pages.made import MADE_OF, made_of
from trajmatch.pages.report import write_report
from trajmatch.pages.tables import score_lines
from trajmatch.run.assembly.setup import Setup, check
from trajmatch.run.folder import check_claim, claim, commit
from trajmatch.run.stages import beforehand, foreign
from trajmatch.run.stages import evaluation as evaluate_stage
from trajmatch.run.stages import experts as expert_stage
from trajmatch.run.stages import loop as distill_stage
from trajmatch.run.stages import plan as planning
from trajmatch.run.stages import summary as summary_of
from trajmatch.run.stages.experts import count_or_folder, stopwatch
from trajmatch.run.stages.feed import opened
from trajmatch.run.stages.pictures import picture_of_step
from trajmatch.run.stages.settled import settled
from trajmatch.run.stages.sinks import check_installed
from trajmatch.settings.checks import resolve
from trajmatch.settings.choices import NOTHING_LEFT, Left
from trajmatch.settings.command_line import quoted
from trajmatch.settings.config import Config
from trajmatch.settings.flat import EVALUATE_FIELDS, difference, settings
from trajmatch.settings.kinds import checked
from trajmatch.settings.methods import METHODS
from trajmatch.settings.options import Plan


def run_experts(
    config: Config, folder: Path, peak: Peak, source: Any = None, left: Left = NOTHING_LEFT
) -> list[Trajectory]:
    """Train experts into a folder; those it already holds are kept. left: settings that the images decide."""
    place = folder.parent if folder.name == "experts" else folder
    config, material = settled(config, left, place, source, ("images", "network", "expert"))
    check(config := resolve(config))
    count = count_or_folder(config.experts)
    if isinstance(count, Path):
        raise ValueError(f"--experts is '{count}' and must be a number here: how many experts to train")
    setup = Setup(config, material) if material else Setup.load(config, source)
    beforehand.check_experts(setup)
    trained = expert_stage.train_experts(setup, folder, count, peak)
    accuracies = [t.header["test_accuracy"][-1] for t in trained]
    if accuracies:
        mean, epochs = sum(accuracies) / len(accuracies), config.expert.epochs
        of = counted(count, "expert")
        LOGGER.info(f"{len(trained)} of {of} in {folder}: {mean:.2%} on test after {counted(epochs, 'epoch')}")
    return trained


class Run:
    """One run folder, from data to report; every stage is skipped when its output is there."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        command: str,
        preset: str | None = None,
        source: Any = None,
        material: Material | None = None,
    ) -> None:
        """material: the images, where they have been loaded for these settings before."""
        self.config, self.folder, self.command, self.preset = resolve(config), folder, command, preset
        self.peak = Peak()
        self.chosen: frozenset[str] = frozenset()
        self.experts_wanted = count_or_folder(config.experts)
        check(self.config)
        check_installed(self.config.log)
        self._lock: Lock | None = None
        if check_claim(folder, self.config):
            self._take_lock()
        self._refuse_silent_resume()
        self.seconds: dict[str, float] = {}
        if material is None:
            with stopwatch(self.seconds, "read"):
                material = Setup.load(self.config, source).material
        self.setup = Setup(self.config, material)
        self.trajectories: list[Trajectory] = []
        if isinstance(self.experts_wanted, Path) and METHODS[self.config.method].experts:
            self.trajectories = expert_stage.named_experts(self.setup, self.experts_wanted)
            self.setup = expert_stage.seen_as(self.setup, self.trajectories)
        self._refuse_what_can_not_work()
        folder.mkdir(parents=True, exist_ok=True)  # only now: bad input must leave nothing behind
        self._take_lock()
        claim(folder, self.config)
        kept = frozenset(distill_stage.snapshot_steps(self.config))
        self.feed = opened(self.config, folder, kept, partial(picture_of_step, self.setup, folder))

    def close(self) -> None:
        """End the logs of --log; nothing is told to them afterwards."""
        self.feed.close()

    def _take_lock(self) -> None:
        """Have the folder alone for as long as this object lives. Raises HeldError where another process has it."""
        if self._lock is None:
            self._lock = Lock(self.folder)
            weakref.finalize(self, self._lock.release)

    def _refuse_what_can_not_work(self) -> None:
        """Raise ValueError now for what would be refused after experts were trained; what is distilled needs none."""
        if (self.folder / SET).exists():
            return
        planned = METHODS[self.config.method].experts and not isinstance(self.experts_wanted, Path)
        beforehand.check_run(self.setup, None if planned else self.trajectories)

    def _refuse_silent_resume(self) -> None:
        path = self.folder / CHECKPOINT
        if path.exists() and not (self.folder / SET).exists() and not self.config.resume:
            raise ValueError(f"{self.folder} holds an interrupted run: add --resume to go on, or choose another --out")

    def experts(self) -> None:
        """Train what is missing of the experts; those of a folder that was named are open already."""
        holding.check()
        if not METHODS[self.config.method].experts:
            self.seconds["experts"] = 0.0
            return
        if isinstance(self.experts_wanted, Path):
            self.seconds["experts"] = sum(t.header["seconds"] for t in self.trajectories)
        else:
            self._train(self.experts_wanted)
        record: dict[str, Any] = {
            "seconds": self.seconds["experts"],
            # By epoch, from the first; training accuracy is measured at the end alone.
            "test_accuracy": [expert_stage.curves(t)[0] for t in self.trajectories],
            "train_accuracy": [expert_stage.curves(t)[1] for t in self.trajectories],
        }
        write_record(self.folder / EXPERTS_JSON, {**record, BELONGS: {"data": self.setup.material.content}})
        finals = [accuracies[-1] for accuracies in record["test_accuracy"]]
        mean, chance = sum(finals) / len(finals), 1 / self.setup.dataset.num_classes
        told = expert_stage.told_foreign(self.trajectories)
        LOGGER.info(f"{counted(len(finals), 'expert')}{told}: mean test accuracy {mean:.2%}")
        if mean < 1.5 * chance:
            LOGGER.info(
                f"  that is close to chance ({chance:.2%}), and a set distilled from such experts can't be better: "
                "train them longer (--expert.epochs), faster (--expert.lr) or in smaller batches (--expert.batch)"
            )

    def _train(self, count: int) -> None:
        path = self.folder / EXPERTS_JSON
        # Over all calls, so that an interrupted training counts in full.
        self.seconds["experts"] = shapes.record(path, shapes.EXPERTS)["seconds"] if path.exists() else 0.0
        whole = replace(self.config, expert=replace(self.config.expert, shard=None))
        try:
            with stopwatch(self.seconds, "experts"):
                self.trajectories = expert_stage.train_experts(
                    Setup(whole, self.setup.material), self.folder / "experts", count, self.peak
                )
        finally:
            record = {"seconds": self.seconds["experts"], "train_accuracy": [], "test_accuracy": []}
            write_record(path, {**record, BELONGS: {"data": self.setup.material.content}})

    def distill(self) -> None:
        """Distil, or go on, or find it done."""
        holding.check()
        path = self.folder / SET
        if path.exists():
            LOGGER.info(f"distilled set: {path} is there")
            about = distill_stage.distill_settings(self.setup, len(self.trajectories))
            checkpoint = distill_stage.load_checkpoint(self.folder / CHECKPOINT, about)
            self.seconds["distill"] = checkpoint.seconds
            restore(path, self.setup.material.space)
            synthetic = sets.load(self.folder)
            distill_stage.check_delivered(path, synthetic, checkpoint.state)
            distill_stage.draw_pictures(self.setup, self.trajectories, synthetic, self.folder)
            self.feed.begin(self.folder / METRICS, checkpoint.step)
            return
        done = distill_stage.distill(self.setup, self.trajectories, self.folder, self.feed)
        self.seconds["distill"] = done.seconds
        LOGGER.info(f"distilled set: {path}, step size {done.synthetic.eta:.4g}")

    def evaluate(self) -> dict[str, Any]:
        """Score the set, or find it scored under the same settings."""
        holding.check()
        path, about, belongs = self.folder / EVALUATION, settings(self.config, EVALUATE_FIELDS), self._belongs()
        if path.exists():
            held = shapes.record(path, shapes.EVALUATION)
            if (what := other(held, belongs)) is not None:
                LOGGER.warning(
                    f"evaluation: {path} belongs to another {what} than the one here, and the set is scored again"
                )
            elif difference(held["settings"], about) is None:
                LOGGER.info(f"evaluation: {path} is there")
                self.seconds["evaluate"] = held["seconds"]
                return dict(held["accuracy"])
        with stopwatch(self.seconds, "evaluate"):
            accuracy = evaluate_stage.evaluate(
                self.setup,
                sets.load(self.folder),
                self.trajectories,
                self.folder,
                self.peak,
                evaluate_stage.snapshots(self.config, self.folder, sets.load(self.folder)),
            )
        seconds = self.seconds["evaluate"]
        write_record(path, {"accuracy": accuracy, "settings": about, "seconds": seconds, BELONGS: belongs})
        return accuracy

    def _belongs(self) -> dict[str, str]:
        """What numbers of this run belong to: its set, its input space in it, and the real images."""
        return {"set": identity(self.folder / SET), "data": self.setup.material.content}

    def summarise(self, accuracy: dict[str, Any]) -> dict[str, Any]:
        """Write summary.json and report.html."""
        holding.check()
        path = self.folder / SUMMARY
        held = shapes.record(path, {"peak_memory_mb?": shapes.is_number}) if path.exists() else {}
        seconds = {k: round(v, 2) for k, v in self.seconds.items()}
        dataset, config, where = self.setup.dataset, self.config, self.setup.device
        synthetic = dataset.num_classes * config.ipc
        real = len(dataset.train) + (len(dataset.validation) if dataset.held_out else 0)
        summary = {
            "preset": self.preset,
            "dataset": dataset.name,
            "images": dataset.digest,
            "method": config.method,
            "ipc": config.ipc,
            "factor": config.factor,
            "classes": list(dataset.classes),
            "device": f"{where} ({torch.cuda.get_device_name(where)})" if where.type == "cuda" else f"{where}",
            "torch": torch.__version__,
            "commit": commit(),
            **summary_of.told(self.setup),
            "steps": config.steps,
            "step_size": sets.load(self.folder).eta,
            "accuracy": accuracy,
            "seconds": seconds,
            "peak_memory_mb": max(round(max(peak_memory_mb(), self.peak.mb), 1), held.get("peak_memory_mb", 0.0)),
            "memory_how": "largest resident size of this process, or of this process with its worker processes while "
            "they ran at once, shared pages counted in each; over all calls on this folder",
            "cores": cores(),
            **summary_of.compression(self.setup, self.folder, synthetic),
            "real_images": real,  # with the validation images
            "synthetic_images": synthetic,
            "chosen": summary_of.chosen(self.config, self.folder, self.chosen),
            "commands": [self.command, quoted(["evaluate", str(self.folder)])],
            BELONGS: self._belongs(),
            MADE_OF: made_of(self.folder, held if held.get(BELONGS) == self._belongs() else {}),
        }
        write_record(path, summary)
        LOGGER.info(f"report: {write_report(self.folder)}")
        return summary


def begun(config: Config, folder: Path, command: str, left: Left, preset: str | None = None, source: Any = None) -> Run:
    """A run whose open settings are settled: those that the images or the minutes decide."""
    config, material = settled(config, left, folder, source)
    this = Run(config, folder, command, preset, source, material)
    this.chosen = left.keys
    return this


def run(config: Config, folder: Path, command: str, preset: str | None, left: Left = NOTHING_LEFT) -> dict[str, Any]:
    """Experts, distill, evaluate and report in one folder. left: what is to be decided."""
    with closing(begun(config, folder, command, left, preset)) as this:
        this.experts()
        this.distill()
        accuracy = this.evaluate()
        this.feed.score(accuracy)
        summary = this.summarise(accuracy)
    for line in score_lines(accuracy):
        LOGGER.info(line)
    foreign.tell(accuracy, len(summary["classes"]))
    if this.config.evaluation.recipe != "mtt":  # scores of another recipe must not be taken for those of the usual one
        LOGGER.info(f"  {accuracy['distilled']['how']}")
    return summary


def plan(config: Config, options: Plan, left: Left = NOTHING_LEFT) -> list[str]:
    """What a run would need here, as lines of text. left: what is to be decided. Raises ValueError."""
    checked(options)
    began = time.monotonic()
    config, material = settled(config, left)
    read = (material, time.monotonic() - began) if material else None
    config = resolve(config)
    check(config)
    return planning.plan(config, count_or_folder(config.experts), options.ranks, read).lines()
