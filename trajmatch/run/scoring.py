"""`trajmatch evaluate`: score any distilled set, with the settings that travel in its file."""

from pathlib import Path
from typing import Any

from trajmatch.run.config import Config

TRANSFER, RANKING, SIZES = "transfer.json", "ranking.json", "sizes.json"


def set_file(path: Path) -> Path:
    """The set's file of a run folder, or the file itself. Raises ValueError where there is none."""
    file = path / "distilled.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path}: there is no distilled set here; name a run folder or a .safetensors file")
    return file


def base_configuration(path: Path) -> dict[str, Any]:
    """The settings with which a set was made, from its file."""
    from trajmatch.data.files import read_header

    header = read_header(set_file(path))
    if header.get("kind") != "synthetic set":
        raise ValueError(f"{path}: this is not a synthetic set")
    return dict(header["info"]["config"])


def opened_set(path: Path, config: Config) -> tuple[Config, Any, Any, Path]:
    """The resolved configuration, the set, the images that fit it, and the set's file. Raises ValueError."""
    from trajmatch.data import synthetic as sets
    from trajmatch.run import assemble
    from trajmatch.run.settings import resolve

    config = resolve(config)
    assemble.check(config)
    file = set_file(path)
    synthetic = sets.load(file)
    material = assemble.load_material(config)
    check_fit(synthetic, material, file)
    if len(synthetic) != config.ipc * material.dataset.num_classes:
        raise ValueError(
            f"--ipc is {config.ipc}, and {file} has {len(synthetic)} images of {material.dataset.num_classes} classes: "
            "leave it out"
        )
    return config, synthetic, material, file


def evaluate_set(path: Path, config: Config) -> dict[str, Any]:
    """Score a set beside random real images and the experts of its folder; print and return the scores.

    With --networks, score it on those instead, and write `transfer.json` beside the set; with --ranking, DD-Ranking's
    scores, in `ranking.json`; with --sizes, its leading parts, in `sizes.json`.
    """
    from trajmatch.run import evaluate_stage, expert_stage, ranking, sizes, transfer
    from trajmatch.run.pool import Peak
    from trajmatch.run.verbs import headline, say

    config, synthetic, material, file = opened_set(path, config)
    e = config.evaluation
    what = f"mean and standard deviation of {e.networks} networks on test images"
    if e.architectures:
        scores = transfer.transfer(config, material, synthetic, file.parent, Peak())
        found = {"networks": scores, "rates": list(e.rates)}
        return _keep(file, TRANSFER, found, transfer.lines(scores), f"{what} (learning rate)")
    if e.sizes:
        scores = sizes.sizes(config, material, synthetic, file.parent, Peak())
        return _keep(file, SIZES, {"sizes": scores}, sizes.lines(scores), what)
    experts = file.parent / "experts" if config.experts.isdigit() else Path(config.experts)
    trajectories = expert_stage.open_experts(config, material, experts) if experts.is_dir() else []
    if e.ranking:
        found = ranking.rank(config, material, synthetic, trajectories, file.parent, Peak())
        return _keep(file, RANKING, found, ranking.lines(found), "scores and how they were obtained")
    candidates = evaluate_stage.snapshots(config, path) if path.is_dir() else []
    accuracy = evaluate_stage.evaluate(config, material, synthetic, trajectories, file.parent, Peak(), candidates)
    for line in headline(accuracy):
        print(line)
    say(f"distilled: {accuracy['distilled']['how']}")
    return accuracy


def _keep(file: Path, name: str, found: dict[str, Any], text: list[str], what: str) -> dict[str, Any]:
    """Print scores and write them beside the set."""
    from trajmatch.data.files import write_json
    from trajmatch.run.verbs import say

    for line in text:
        print(line)
    write_json(file.parent / name, {"set": str(file), **found})
    say(f"{what}: {file.parent / name}")
    return found


def check_fit(synthetic: Any, material: Any, file: Path) -> None:
    """Raise ValueError where a set's classes or images are not those of the data."""
    if tuple(synthetic.classes) != material.dataset.classes:
        raise ValueError(f"--data has classes {', '.join(material.dataset.classes[:5])}, ... and {file} others")
    if tuple(synthetic.X.shape[1:]) != material.dataset.shape:
        raise ValueError(
            f"--images.size: the images of --data are {material.dataset.shape} and those of {file} "
            f"{tuple(synthetic.X.shape[1:])}"
        )
