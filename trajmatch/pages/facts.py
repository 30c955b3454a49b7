"""What a run's summary says, in sentences and in rows of facts. No torch here."""

from collections.abc import Mapping
from typing import Any

from trajmatch.machine.progress import duration

Record = Mapping[str, Any]
STAGES = {"read": "reading", "experts": "experts", "distill": "distilling", "evaluate": "scoring"}
# Of what a set is worth above chance to its own network, the share that another one must keep for it to carry over.
KEPT = 0.25


def per_cent(score: Record) -> str:
    """A score's mean, its standard deviation and the number of its networks; one network has no deviation.

    >>> per_cent({"mean": 0.712, "std": 0.011, "n": 5}), per_cent({"mean": 0.712, "std": 0.0, "n": 1})
    ('71.2% ± 1.1% (n = 5)', '71.2% (n = 1)')
    """
    deviation = f" ± {score['std']:.1%}" if score["n"] > 1 else ""
    return f"{score['mean']:.1%}{deviation} (n = {score['n']})"


def result(summary: Record) -> str:
    """What came out, in a sentence."""
    scores, count, real = summary["accuracy"], summary.get("synthetic_images", "?"), summary.get("whole_images")
    parts = [f"{count} synthetic images train a network to {per_cent(scores['distilled'])}"]
    if (random := scores.get("random tuned", scores.get("random"))) is not None:
        parts.append(f"{count} random real ones to {per_cent(random)}")
    if "whole" in scores and real:
        epochs = f" in {_counted(scores['whole']['epochs'], 'epoch')}" if "epochs" in scores["whole"] else ""
        parts.append(f"{real:,} real images to {per_cent(scores['whole'])}{epochs}")
    return "; ".join(parts)


def sayings(summary: Record) -> list[str]:
    """What a reader must know to take the scores for what they are."""
    scores = summary["accuracy"]
    said = ["Accuracies are of test images, each with the standard deviation over n networks (n = their number)."]
    if "epochs" in scores.get("whole", {}):
        said.append(
            f"The whole dataset's networks were trained for {_counted(scores['whole']['epochs'], 'epoch')}: their "
            "accuracy is no ceiling, and longer training may reach more (--evaluation.whole-epochs)."
        )
    return said


def carried(scores: Record, classes: int | None) -> tuple[bool, str] | None:
    """Whether a set is worth something to the foreign network that was trained on it too, and that in a sentence.

    None where there was no such network, or the number of classes is not known. A set carries over where the network
    keeps `KEPT` of what the set is worth above chance to its own network, and learns more than from random real images.
    """
    if "foreign" not in scores or not classes:
        return None
    own, there, chance = scores["distilled"]["mean"], scores["foreign"]["mean"], 1 / classes
    name, random = scores["foreign"].get("network", "another network"), scores.get("foreign random")
    against = f" ({random['mean']:.1%} from as many random real images)" if random else ""
    found = f"on {name}, for which it was not made, it reaches {there:.1%}{against}, on its own network {own:.1%}"
    if there - chance < KEPT * (own - chance):
        if random and random["mean"] - chance < KEPT * (own - chance):
            return False, (
                f"The set was not shown to carry over: {found}, and chance is {chance:.1%}; {name} learns little from "
                "so few images of either kind."
            )
        return False, f"The set does not carry over: {found}, and chance is {chance:.1%}."
    if random and there <= random["mean"]:
        return False, f"The set does not carry over: {found}; random real images are as good there."
    return True, f"The set carries over: {found}."


def facts(summary: Record) -> list[tuple[str, str]]:
    """What was run: names and values, with their units; what a summary of an older version does not say is left out."""
    rows = [
        ("data", _data(summary)),
        ("image size", _size(summary)),
        ("synthetic set", _set(summary)),
        ("network", summary.get("network", "")),
        ("method", _method(summary)),
        ("total time", total_time(summary)),
        ("seed", _seeds(summary)),
    ]
    return [(name, value) for name, value in rows if value]


def total_time(summary: Record) -> str:
    """The time of all stages, and of each.

    >>> total_time({"seconds": {"read": 0.4, "experts": 70.2}})
    '1:11 min: reading 0.4 s, experts 1:10 min'
    """
    seconds = summary["seconds"]
    parts = ", ".join(f"{STAGES.get(stage, stage)} {_time(value)}" for stage, value in seconds.items())
    return f"{_time(sum(seconds.values()))}: {parts}" if seconds else ""


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _data(summary: Record) -> str:
    classes, real = len(summary.get("classes", ())), summary.get("whole_images")
    more = f": {real:,} training images" if real else ""
    return f"{summary['dataset']}{more}" + (f" of {_counted(classes, 'class', 'classes')}" if classes else "")


def _size(summary: Record) -> str:
    if "shape" not in summary:
        return ""
    c, h, w = summary["shape"]
    return f"{w} x {h} pixels, {'grey' if c == 1 else 'colour'}"


def _set(summary: Record) -> str:
    count, factor = summary.get("synthetic_images", "?"), summary.get("factor", 1)
    tiles = f", each cut into {factor} x {factor} tiles, which a network sees as {factor**2} images"
    return f"{count} images, {summary['ipc']} per class" + (tiles if factor > 1 else "")


def _method(summary: Record) -> str:
    made = f"{summary['method'].upper()}, {_counted(summary.get('steps', '?'), 'outer step')}"
    if "step_size" in summary:
        made += f", learned step size {summary['step_size']:.4g} (a learning rate, without unit)"
    return made


def _seeds(summary: Record) -> str:
    seed, own = summary.get("seed"), summary.get("distillation_seed")
    if seed is None:
        return ""
    return f"{seed} for all draws" if own in (None, seed) else f"{seed}; {own} for the distillation"


def _counted(number: Any, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"
