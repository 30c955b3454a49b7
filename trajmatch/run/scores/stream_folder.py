"""The folder of a stream: where its steps lie, and what is refused before any work on it."""

from pathlib import Path

from trajmatch.data.checksums import identity
from trajmatch.data.file_names import CONFIG, SET, STREAM
from trajmatch.data.kept import digest, other
from trajmatch.machine.messages import LOGGER
from trajmatch.pages import records as shapes
from trajmatch.settings.options import Continual

SCORES, RANDOM_SCORES = "scores.json", "random-scores.json"
PLACE = "order-{}/step-{}"
EXPERTS_OF = PLACE + "/experts"


def check_place(folder: Path) -> None:
    """Raise ValueError where a folder holds anything but a stream, or a stream with a damaged file of accuracies."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out is '{folder}', which is a file: choose another")
    held = {child.name for child in folder.iterdir() if not child.name.startswith(".")} if folder.exists() else set()
    if CONFIG in held:
        raise ValueError(f"--out is '{folder}', which holds a run and no stream: choose another")
    # A stream that was interrupted early has no result yet, but the folder of its first order.
    if held and STREAM not in held and not (folder / PLACE.format(0, 0)).parent.is_dir():
        raise ValueError(f"--out is '{folder}', which is not empty and holds no stream: choose another")
    for name in (SCORES, RANDOM_SCORES):
        for path in sorted(folder.glob(PLACE.format("*", "*") + f"/{name}")):
            held_scores(path, {})


def check_experts(stream: Path, options: Continual) -> None:
    """Raise ValueError where another stream lacks experts of an order and step, or has fewer there than at first."""
    if options.replay != "none":
        raise ValueError(
            f"--experts is '{stream}' and must be a number with --replay {options.replay}: experts of another stream "
            "know nothing of this stream's memory"
        )
    if not (stream / EXPERTS_OF.format(0, 0)).is_dir():
        raise ValueError(
            f"--experts is '{stream}' and must be a number, or the folder of another continual stream, whose "
            "experts are taken"
        )
    counts = {
        (order, step): len(list((stream / EXPERTS_OF.format(order, step)).glob("expert_*.safetensors")))
        for order in range(options.orders)
        for step in range(options.class_steps)
    }
    wanted = max(1, counts[0, 0])
    lacking = [place for place, count in counts.items() if count < wanted]
    if lacking:
        complete = options.orders - len({order for order, _ in lacking})
        raise ValueError(
            f"--experts is '{stream}', which has experts for all {options.class_steps} of --class-steps in {complete} "
            f"of the {options.orders} of --orders ({PLACE.format(*lacking[0])} has {counts[lacking[0]]} where {wanted} "
            "must be): ask for what it has, or let that stream go on first"
        )


def identities(place: Path, count: int) -> str:
    """What tells the sets of a stream's steps up to this one from any others."""
    return digest([identity(place.with_name(f"step-{j}") / SET) for j in range(count)])


def held_scores(path: Path, belongs: dict[str, str]) -> list[float]:
    """The accuracies of a step's networks that are trained already; none where they are of other sets or images.

    Raises ValueError where the file is damaged.
    """
    found = shapes.record(path, shapes.SCORES, "this record is damaged")
    if (what := other(found, belongs)) is not None:
        LOGGER.warning(f"{path} belongs to another {what} than the one here: its networks are trained again")
        return []
    return list(found["accuracy"])
