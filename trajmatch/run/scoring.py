"""`trajmatch evaluate`: score any distilled set, with the settings that travel in its file."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trajmatch.pages.tables import score_lines
from trajmatch.run import shapes
from trajmatch.run.config import Config
from trajmatch.run.folder import parsed
from trajmatch.run.options import Scored
from trajmatch.run.ranges import is_count

SET, TRANSFER, RANKING, SIZES = "distilled.safetensors", "transfer.json", "ranking.json", "sizes.json"
# How the networks of a score are trained.
PROTOCOL = {f"evaluation.{name}" for name in ("networks", "epochs", "momentum", "weight_decay", "batch", "augment")}


def set_file(path: Path) -> Path:
    """The set's file of a run folder, or the file itself. Raises ValueError where there is none."""
    file = path / SET if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path}: there is no distilled set here; name a run folder or a .safetensors file")
    return file


def scores_file(file: Path, name: str) -> Path:
    """Where scores of a set's file are kept: one folder may hold several sets.

    >>> scores_file(Path("runs/a/distilled.safetensors"), "sizes.json").name
    'sizes.json'
    >>> scores_file(Path("mine.safetensors"), "sizes.json").name
    'mine.sizes.json'
    """
    return file.parent / (name if file.name == SET else f"{file.stem}.{name}")


def base_configuration(path: Path) -> dict[str, Any]:
    """The settings with which a set was made, from its file."""
    from trajmatch.data.checksums import remedy
    from trajmatch.data.synthetic import set_header

    file = set_file(path)
    config = set_header(file)["info"].get("config")
    if not isinstance(config, dict):
        raise ValueError(f"{file}: the header of this set has no settings (info.config); {remedy(file)}")
    parsed(config, str(file), remedy(file))
    return config


def opened_set(
    path: Path, config: Config, networks: Sequence[str] = (), sizes: Sequence[int] = ()
) -> tuple[Config, Any, Any, Path]:
    """The resolved configuration, the set, the images in its input space, and the set's file. Raises ValueError.

    --seed and --images.* must be those that the set was made with: others draw other test images, some of which it was
    made from. Images of another --data are seen through the set's own input space. networks,
    sizes: others, which must fit.
    """
    from trajmatch.data import synthetic as sets
    from trajmatch.run import assemble
    from trajmatch.run.settings import difference, resolve, settings

    config = resolve(config)
    assemble.check(config)
    file = set_file(path)
    made = resolve(parsed(base_configuration(path), str(file)))
    changed = difference(*(settings(each, ("seed", "images")) for each in (made, config)))
    if changed is not None:
        raise ValueError(
            f"{file}: {changed}; leave it out, for other images would be tested on, some of which the set was made from"
        )
    synthetic = sets.load(file)
    material = assemble.load_material(config, networks=networks, sizes=sizes)
    check_fit(synthetic, material, file)
    if len(synthetic) != config.ipc * material.dataset.num_classes:
        raise ValueError(
            f"--ipc is {config.ipc}, and {file} has {len(synthetic)} images of {material.dataset.num_classes} classes: "
            "leave it out"
        )
    own = synthetic.space.digest()
    seen = "" if own == material.space.digest() else f", seen through {own}"
    return config, synthetic, replace(material, space=synthetic.space, seen=seen), file


def evaluate_set(path: Path, config: Config, options: Scored) -> dict[str, Any]:
    """Score a set beside random real images and the experts of its folder; print and return the scores.

    With --networks, score it on those instead, and write `transfer.json` beside the set; with --ranking, DD-Ranking's
    scores, in `ranking.json`; with --sizes, its leading parts, in `sizes.json`. A set that is no run's writes
    NAME.transfer.json and so on.
    """
    from trajmatch.run import evaluate_stage, expert_stage, ranking, sizes, transfer
    from trajmatch.run.pool import Peak
    from trajmatch.run.verbs import say

    options = options.asked()
    config, synthetic, material, file = opened_set(path, config, options.networks, options.sizes)
    what = f"mean and standard deviation of {config.evaluation.networks} networks on test images"
    keep = partial(_keep, file, _about(config, synthetic, material, file))
    if options.networks:
        scores = transfer.transfer(config, material, synthetic, options, file.parent, Peak())
        found = {"networks": scores, "rates": list(options.rates)}
        return keep(TRANSFER, found, transfer.lines(scores), f"{what} (learning rate)")
    if options.sizes:
        scores = sizes.sizes(config, material, synthetic, options.sizes, file.parent, Peak())
        return keep(SIZES, {"sizes": scores}, sizes.lines(scores), what)
    experts = file.parent / "experts" if is_count(config.experts) else Path(config.experts)
    trajectories = expert_stage.open_experts(config, material, experts) if experts.is_dir() else []
    if options.ranking:
        found = ranking.rank(config, material, synthetic, trajectories, options.rates, file.parent, Peak())
        return keep(
            RANKING, {**found, "rates": list(options.rates)}, ranking.lines(found), "scores and how they were obtained"
        )
    candidates = evaluate_stage.snapshots(config, path, synthetic) if path.is_dir() else []
    accuracy = evaluate_stage.evaluate(config, material, synthetic, trajectories, file.parent, Peak(), candidates)
    for line in score_lines(accuracy):
        print(line)
    say(f"distilled: {accuracy['distilled']['how']}")
    return accuracy


def _about(config: Config, synthetic: Any, material: Any, file: Path) -> dict[str, Any]:
    """What scores belong to: the set, the real images, and how networks are trained."""
    from trajmatch.data.checksums import identity
    from trajmatch.data.kept import BELONGS
    from trajmatch.data.synthetic import content
    from trajmatch.run.settings import settings

    training = {key: value for key, value in settings(config, ("evaluation",)).items() if key in PROTOCOL}
    belongs = {"set": identity(file), "data": material.content}
    found = {"set": str(file), "content": [content(synthetic), material.content], "settings": training}
    return {**found, BELONGS: belongs}


def _keep(
    file: Path, about: dict[str, Any], name: str, found: dict[str, Any], text: list[str], what: str
) -> dict[str, Any]:
    """Print scores and write them beside the set, with those of other networks or sizes that are there already."""
    from trajmatch.data.files import write_record
    from trajmatch.run.verbs import say

    for line in text:
        print(line)
    place = scores_file(file, name)
    write_record(place, {**about, **_with_others(place, {**about, **found})})
    say(f"{what}: {place}")
    return found


def _with_others(place: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Scores by network or size, and those of others that stand in the file and were measured in the same way."""
    from trajmatch.data.kept import BELONGS, other
    from trajmatch.run.verbs import say

    old = shapes.record(place, {"networks?": {}, "sizes?": {}}, "this record is damaged") if place.exists() else {}
    several = [key for key in ("networks", "sizes") if key in found]
    alike = {key: value for key, value in found.items() if key not in (*several, BELONGS)}
    if other(old, found[BELONGS]) is not None or any(old.get(key) != value for key, value in alike.items()):
        if old:
            say(f"{place}: what it held was measured in another way or of another set, and is replaced")
        return found
    return {**found, **{key: {**old.get(key, {}), **found[key]} for key in several}}


def check_fit(synthetic: Any, material: Any, file: Path) -> None:
    """Raise ValueError where a set's classes or images are not those of the data."""
    if tuple(synthetic.classes) != material.dataset.classes:
        raise ValueError(f"--data has classes {', '.join(material.dataset.classes[:5])}, ... and {file} others")
    if tuple(synthetic.X.shape[1:]) != material.dataset.shape:
        raise ValueError(
            f"--images.size: the images of --data are {material.dataset.shape} and those of {file} "
            f"{tuple(synthetic.X.shape[1:])}"
        )
