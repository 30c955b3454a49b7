"""A distillation's state on disk: checkpoints, and the log of its steps kept in line with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trajmatch.data.checksums import remedy
from trajmatch.data.files import read_header, write_text
from trajmatch.data.synthetic import wrong_values
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.machine.messages import LOGGER
from trajmatch.methods.state import OuterState
from trajmatch.pages.step_log import read_log
from trajmatch.settings.flat import difference
from trajmatch.settings.methods import METHODS

# The states of a checkpoint, by the names under which their tensors are kept.
STATES = ("state", "anchor", "older")
# What every state has had from the first version on; what a state has learned to hold since has its default.
FIRST = OuterState._fields[: len(OuterState._fields) - len(OuterState._field_defaults)]


@dataclass(frozen=True)
class Checkpoint:
    """The state now, two states before it, the seconds spent, and the settings they belong to.

    older: the state to roll back to. anchor: the one that will be, when the next is kept. threads: torch's, with which
    the steps are taken, for their number changes the last bits; None in a checkpoint of a release that did not keep it.
    """

    state: OuterState
    anchor: OuterState
    older: OuterState
    seconds: float
    settings: Mapping[str, Any]
    threads: int | None = None

    @property
    def step(self) -> int:
        """Outer steps taken."""
        return int(self.state.steps)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises OSError; ValueError where a state is not finite, and keeps the file that is there.
    """
    states = {name: getattr(checkpoint, name) for name in STATES}
    for name, state in states.items():
        if (wrong := wrong_state(state)) is not None:
            raise ValueError(f"{path}: the checkpoint is not written, because {wrong} in its {name}")
    # `clone`: a safetensors file refuses tensors that share memory, and X and its average may be one.
    tensors = {f"{name}.{k}": v.clone() for name, state in states.items() for k, v in state._asdict().items()}
    header = {"kind": "checkpoint", "settings": dict(checkpoint.settings), "seconds": checkpoint.seconds}
    header |= {"threads": checkpoint.threads, "step": checkpoint.step}
    save_tensors(path, tensors, header)


def load_checkpoint(path: Path, settings: Mapping[str, Any], like: OuterState | None = None) -> Checkpoint:
    """Read a checkpoint of a run with these settings. Raises ValueError naming the file and what differs.

    like: a state of the same run, such as its first, whose shapes the checkpoint's must have.
    """
    header = read_header(path)
    if header.get("kind") != "checkpoint":
        raise ValueError(f"{path}: this is not a checkpoint")
    held: dict[str, Any] = header.get("settings", {})
    threads = header.get("threads")
    for key, is_right in (
        ("settings", isinstance(held, dict)),
        ("seconds", _is_seconds(header.get("seconds"))),
        ("threads", threads is None or (type(threads) is int and 0 < threads < 10_000)),
    ):
        if not is_right:
            raise ValueError(f"{path}: the header of this checkpoint is damaged ({key}); {remedy(path)}")
    if (what := difference(held, dict(settings))) is not None:
        what = "the images are others" if what.startswith("--data ") else what
        raise ValueError(f"{path} belongs to a run with other settings: {what}; choose another --out")
    tensors, are_logits = read_tensors(path), held.get("outer.labels") == "learned"
    _count_steps(tensors, held)
    # A checkpoint of a release that kept one state to roll back to has no older one.
    names = ("state", "anchor", "older" if "older.X" in tensors else "anchor")
    state, anchor, older = (_state(path, name, tensors, like, are_logits) for name in names)
    return Checkpoint(state, anchor, older, header["seconds"], settings, threads)


def _count_steps(tensors: dict[str, Tensor], held: Mapping[str, Any]) -> None:
    """Add the optimiser's count of its steps to states of a release that took it to be the number of outer steps."""
    method, since = METHODS.get(str(held.get("method"))), held.get("baseline.since")
    if method is None or not method.matches or not isinstance(since, int):
        since = 0
    for name in STATES:
        if f"{name}.steps" in tensors and f"{name}.taken" not in tensors:
            steps = tensors[f"{name}.steps"]
            tensors[f"{name}.taken"] = torch.where(steps < since, steps, steps - since)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= 0


def _state(
    path: Path, name: str, tensors: Mapping[str, Tensor], like: OuterState | None, are_logits: bool
) -> OuterState:
    """One of a checkpoint's states. Raises ValueError where it lacks something, or its values cannot be used."""
    found = {k: tensors[f"{name}.{k}"].clone() for k in OuterState._fields if f"{name}.{k}" in tensors}
    if missing := [k for k in FIRST if k not in found]:
        raise ValueError(f"{path}: this checkpoint has no {name}.{missing[0]}; {remedy(path)}")
    state = OuterState(**found)
    wrong = wrong_state(state) or (None if like is None else wrong_shapes(state, like))
    if wrong is None and not are_logits:
        wrong = wrong_values(state.X, state.Y, float(state.eta))
    if wrong is not None:
        raise ValueError(f"{path}: this checkpoint cannot be used: {wrong} in its {name}; {remedy(path)}")
    return state


def wrong_state(state: OuterState) -> str | None:
    """Why a state cannot be gone on from, in words, or None."""
    # A baseline's own network may have diverged after a good step: the next step is rolled back then.
    for name in (*FIRST, "norm"):
        if not getattr(state, name).isfinite().all():
            return f"{name} is not finite"
    if state.eta.dim() or state.steps.dim() or int(state.steps) < 0:
        return "eta and steps are no single numbers"
    if float(state.eta) <= 0:
        return f"the step size is {float(state.eta):g} and must be above 0"
    for name in ("average", "ascent"):
        if getattr(state, name).shape != state.X.shape:
            return f"{name} has another shape than X"
    if state.Y.dim() != 2 or len(state.Y) != len(state.X):
        return f"Y has shape {tuple(state.Y.shape)} for {len(state.X)} images"
    return None


def wrong_shapes(state: OuterState, like: OuterState) -> str | None:
    """What of a state has another shape than in another state of its run; only `FIRST`, for the rest may grow."""
    for name in FIRST:
        found, wanted = tuple(getattr(state, name).shape), tuple(getattr(like, name).shape)
        if found != wanted:
            return f"{name} has shape {found} where {wanted} must be"
    return None


def truncate_metrics(path: Path, step: int) -> None:
    """Keep the rows of metrics.jsonl up to `step`: rows of steps that a checkpoint does not hold will come again.

    A damaged line is left out, wherever it is, and said; one that a kill has cut short at the end was never whole.
    """
    if not path.exists():
        return
    log = read_log(path)
    kept = [line for line, row in zip(log.lines, log.rows, strict=True) if row["step"] <= step]
    if log.damaged:
        LOGGER.warning("%s: %s", path, log.words())
    write_text(path, "".join(f"{line}\n" for line in kept))
