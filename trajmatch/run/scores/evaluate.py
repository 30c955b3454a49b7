"""`trajmatch evaluate`: score any distilled set, with the settings that travel in its file."""

from functools import partial
from pathlib import Path
from typing import Any

from trajmatch.data.checksums import identity
from trajmatch.data.file_names import RANKING, SET, SIZES, TRANSFER
from trajmatch.data.files import write_record
from trajmatch.data.kept import BELONGS, other
from trajmatch.data.synthetic import SyntheticSet, content
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.processes import Peak
from trajmatch.pages import records as shapes
from trajmatch.pages.tables import score_lines
from trajmatch.run.assembly.distilled import opened_set
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.scores import ranking, sizes, transfer
from trajmatch.run.stages import evaluation as evaluate_stage
from trajmatch.run.stages import experts as expert_stage
from trajmatch.run.stages import foreign
from trajmatch.settings.config import Config
from trajmatch.settings.flat import settings
from trajmatch.settings.options import Evaluate
from trajmatch.settings.ranges import is_count

# How the networks of a score are trained.
RECIPE = "evaluation.recipe"
PROTOCOL = {f"evaluation.{name}" for name in ("networks", "epochs", "momentum", "weight_decay", "batch", "augment")}
PROTOCOL |= {RECIPE}


def scores_file(file: Path, name: str) -> Path:
    """Where scores of a set's file are kept: one folder may hold several sets.

    >>> scores_file(Path("runs/a/distilled.safetensors"), "sizes.json").name
    'sizes.json'
    >>> scores_file(Path("mine.safetensors"), "sizes.json").name
    'mine.sizes.json'
    """
    return file.parent / (name if file.name == SET else f"{file.stem}.{name}")


def evaluate_set(path: Path, config: Config, options: Evaluate) -> dict[str, Any]:
    """Score a set beside random real images and the experts of its folder; print and return the scores.

    With --networks, score it on those instead, and write `transfer.json` beside the set; with --ranking, DD-Ranking's
    scores, in `ranking.json`; with --sizes, its leading parts, in `sizes.json`. A set that is no run's writes
    NAME.transfer.json and so on.
    """
    options = options.asked()
    setup, synthetic, file = opened_set(path, config, options.networks, options.sizes)
    config = setup.config
    if made_elsewhere := synthetic.info.get("foreign"):
        LOGGER.info(f"{file}: {made_elsewhere}")
    what = f"mean and standard deviation of {config.evaluation.networks} networks on test images"
    keep = partial(_keep, file, _about(setup, synthetic, file))
    if options.networks:
        scores = transfer.transfer(setup, synthetic, options, file.parent, Peak())
        found = {"networks": scores, "rates": list(options.rates)}
        return keep(TRANSFER, found, transfer.lines(scores, config.evaluation.recipe), f"{what} (learning rate)")
    if options.sizes:
        scores = sizes.sizes(setup, synthetic, options.sizes, file.parent, Peak())
        return keep(SIZES, {"sizes": scores}, sizes.lines(scores), what)
    experts = file.parent / "experts" if is_count(config.experts) else Path(config.experts)
    trajectories = expert_stage.open_experts(setup, experts) if experts.is_dir() else []
    if options.ranking:
        found = ranking.rank(setup, synthetic, trajectories, options.rates, file.parent, Peak())
        return keep(
            RANKING, {**found, "rates": list(options.rates)}, ranking.lines(found), "scores and how they were obtained"
        )
    candidates = evaluate_stage.snapshots(config, path, synthetic) if path.is_dir() and not made_elsewhere else []
    accuracy = evaluate_stage.evaluate(setup, synthetic, trajectories, file.parent, Peak(), candidates)
    for line in score_lines(accuracy):
        print(line)
    foreign.tell(accuracy, setup.dataset.num_classes)
    LOGGER.info(f"distilled: {accuracy['distilled']['how']}")
    return accuracy


def _about(setup: Setup, synthetic: SyntheticSet, file: Path) -> dict[str, Any]:
    """What scores belong to: the set, the real images, and how networks are trained."""
    material = setup.material
    training = {key: value for key, value in settings(setup.config, ("evaluation",)).items() if key in PROTOCOL}
    if training[RECIPE] == "mtt":  # older versions, which knew no other, did not say so
        del training[RECIPE]
    belongs = {"set": identity(file), "data": material.content}
    found = {"set": str(file), "content": [content(synthetic), material.content], "settings": training}
    return {**found, BELONGS: belongs}


def _keep(
    file: Path, about: dict[str, Any], name: str, found: dict[str, Any], text: list[str], what: str
) -> dict[str, Any]:
    """Print scores and write them beside the set, with those of other networks or sizes that are there already."""
    for line in text:
        print(line)
    place = scores_file(file, name)
    write_record(place, {**about, **_with_others(place, {**about, **found})})
    LOGGER.info(f"{what}: {place}")
    return found


def _with_others(place: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Scores by network or size, and those of others that stand in the file and were measured in the same way."""
    old = shapes.record(place, {"networks?": {}, "sizes?": {}}, "this record is damaged") if place.exists() else {}
    several = [key for key in ("networks", "sizes") if key in found]
    alike = {key: value for key, value in found.items() if key not in (*several, BELONGS)}
    if other(old, found[BELONGS]) is not None or any(old.get(key) != value for key, value in alike.items()):
        if old:
            LOGGER.warning(f"{place}: what it held was measured in another way or of another set, and is replaced")
        return found
    return {**found, **{key: {**old.get(key, {}), **found[key]} for key in several}}
