"""What a notebook calls: `trajmatch.distill` does what the command line does, `evaluate` scores a set.

`recipe` is how the networks of a score are trained, for `trajmatch.train`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from trajmatch.data.called import shown
from trajmatch.data.file_names import SUMMARY
from trajmatch.data.reading.in_python import SOURCES
from trajmatch.data.synthetic import SyntheticSet, load
from trajmatch.machine.litter import scratch_folder
from trajmatch.machine.messages import LOGGER, heard
from trajmatch.machine.own_code import name_of
from trajmatch.machine.precision import precision
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.methods.training import Training
from trajmatch.run.assembly.distilled import setup_of
from trajmatch.run.assembly.letters import evaluation_rate, evaluation_training
from trajmatch.run.assembly.setup import IN_PYTHON
from trajmatch.run.scores.transfer import transfer
from trajmatch.run.stages.evaluation import evaluate as scored
from trajmatch.run.stages.run import begun
from trajmatch.settings.checks import resolve
from trajmatch.settings.choices import Left, left_open
from trajmatch.settings.command_line import quoted
from trajmatch.settings.config import Config, LogName, MethodName
from trajmatch.settings.flat import parsed
from trajmatch.settings.kinds import checked, with_setting
from trajmatch.settings.options import Evaluate
from trajmatch.settings.presets import ANY_IMAGES, DEFAULT, NAMES, preset

# A network's name, or what makes one: a function, or a class, of the images' shape (c, h, w) and the number of classes.
Network = str | Callable[[tuple[int, int, int], int], nn.Module]


def distill(
    dataset: Any,
    ipc: int = 1,
    *,
    method: MethodName | None = None,
    steps: int | None = None,
    experts: int | str | None = None,
    network: Network | None = None,
    sharpness: Any = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    config: Config | None = None,
    workers: int = 1,
    score: bool = False,
    log: Sequence[LogName] = (),
    quiet: bool = False,
) -> SyntheticSet:
    """A synthetic set of `ipc` images per class, distilled from `dataset`.

    dataset: what --data takes, or a torch map-style data set of (image, label), or a pair (train, test) of them.
    config:  all other settings; by default the preset for digits, or for other images what they decide. What is given
             here goes before it.
    experts: how many to train, or a folder of trained ones.
    network: the name of one, or your own function (or class) of the images' shape (c, h, w) and the number of classes
             that makes a torch.nn.Module.
    sharpness: the rule of the ascent: one of --matching.sharpness, or your own function of the hypergradient d, the
             images X and the radius rho that gives the perturbation eps, all but rho of the images' shape.
    out:     run folder; an interrupted run of the same settings goes on there. None works in a temporary folder.
    workers: processes for experts, and for the networks of a score. More than 1 needs `if __name__ == "__main__":`
             around a script's code, and a network or rule that is in a module.
    score:   train networks on the set too, and write the accuracies, the summary and report.html, as `trajmatch run`
             does. Without it the folder has none of them, as `trajmatch distill` leaves it.
    log:     loggers that are told of it, any of "tensorboard", "wandb" and "trackio"; they need `out`.
    quiet:   say nothing. Otherwise messages go to the handlers of `logging` that the program has set up, or to stderr.

    A network or rule of your own must stand at the top level of a module, script or notebook: a run is known by its
    name. Raises ValueError for bad settings or data, OSError where files cannot be written.
    """
    _check_given(dataset, config, log, out)
    named = isinstance(dataset, str | Path)
    given = {"method": method, "steps": steps, "experts": None if experts is None else str(experts)}
    given |= {"network.name": _named("network", network), "matching.sharpness": _named("sharpness", sharpness)}
    given |= {"data": str(dataset) if named else f"{_type_name(dataset)}{IN_PYTHON}", "resume": True}
    given |= {"ipc": ipc, "seed": seed, "device": device, "expert.workers": workers}
    given |= {"evaluation.workers": workers if score else None}
    digits = named and str(dataset) == "digits"
    named_here = [key for key, value in {"steps": steps, "method": method}.items() if value is not None]
    left = Left(frozenset() if config or digits else left_open(named_here))
    base = _filled(config or preset(DEFAULT if digits else ANY_IMAGES), given, log)
    with precision("float32"), scratch_folder() as temporary:
        folder = temporary / "run" if out is None else Path(out)
        about = folder, "trajmatch.distill(...)", left
        with heard(quiet, once=True), closing(begun(base, *about, source=None if named else dataset)) as this:
            this.experts()
            this.distill()
            if score:
                this.summarise(this.evaluate())
            elif out is not None and not (folder / SUMMARY).exists():
                LOGGER.info(_unscored(folder, base))
        return load(folder)


def _filled(base: Config, given: Mapping[str, Any], log: Sequence[LogName]) -> Config:
    """The configuration with the settings that are given, and not None. Raises ValueError."""
    base = replace(base, log=tuple(log)) if log else base
    for key, value in given.items():
        base = base if value is None else with_setting(base, key, value)
    checked(base)
    return base


def evaluate(
    synthetic: SyntheticSet | str | Path,
    data: Any = None,
    *,
    network: Network | None = None,
    networks: int | None = None,
    random_draws: int | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    device: str = "auto",
    workers: int = 1,
    quiet: bool = False,
) -> dict[str, Score]:
    """What a set is worth: accuracies on real test images of networks that are trained on it from scratch.

    synthetic: the set, its file, or its run folder.
    data:      what the set was distilled from, as `distill` takes it; None is what the set's settings name. Test images
               are those that the set was not made from.
    network:   the name of one, or your own, as in `distill`; None is the one that the set was distilled for.
    networks, random_draws, recipe, epochs: as the settings of the group `evaluation`; None is the set's own.

    Returns scores by name. "distilled": at the set's learned step size (or the recipe's rate). "random": as many random
    real images, at the same rate; "random tuned": at the rate that they like best on validation images. With a network
    that the set was not distilled for there is "distilled tuned" too, and random images are tuned alone.
    A score's `mean`, `std` and `n` are numbers, and `how` says how they were obtained. Nothing is written. Raises
    ValueError for a set, data or settings that do not fit.
    """
    found, where = _opened(synthetic)
    config = _settings_of(found)
    asked = {"networks": networks, "random_draws": random_draws, "recipe": recipe, "epochs": epochs}
    asked = {key: value for key, value in asked.items() if value is not None}
    named = isinstance(data, str | Path)
    name = _named("network", network)
    own = name in (None, config.network.name)
    with precision("float32"), scratch_folder() as temporary, heard(quiet, once=True):
        setup = setup_of(
            found,
            where,
            replace(
                config,
                data=str(data) if named else config.data,
                device=device,
                evaluation=replace(config.evaluation, workers=workers, **asked),  # type: ignore[arg-type]
            ),
            None if named else data,
            () if name is None else (name,),
        )
        if own:
            return {key: _score(of) for key, of in scored(setup, found, (), temporary, Peak()).items()}
        of = transfer(setup, found, Evaluate(networks=(str(name),)).asked(), temporary, Peak())[str(name)]
    titles = {"learned": "distilled", "tuned": "distilled tuned", "random": "random tuned"}
    return {title: _score(of[key]) for key, title in titles.items() if key in of}


def recipe(
    synthetic: SyntheticSet | str | Path, name: str | None = None, *, rate: float | None = None, **changes: Any
) -> Training:
    """How the networks of a score are trained on a set, for `trajmatch.train`: a frozen record of numbers.

    synthetic: the set, its file, or its run folder.
    name:      "mtt" or "adamw"; None is the one that the set's settings name.
    rate:      learning rate; None is the set's learned step size, or the recipe's own.
    changes:   any setting of the group `evaluation`: epochs, batch, momentum, weight_decay, augment.

    Raises ValueError for a set that cannot be read, and a setting that does not exist or is out of its range.
    """
    found, _ = _opened(synthetic)
    config = _settings_of(found)
    known = {field.name for field in fields(config.evaluation)}
    if unknown := sorted(changes.keys() - known):
        raise ValueError(f"recipe: there is no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if name is not None and name != config.evaluation.recipe:
        changes = {"recipe": name, "epochs": None, **changes}
    config = resolve(replace(config, evaluation=replace(config.evaluation, **changes)))
    return evaluation_training(config, evaluation_rate(config, found.eta) if rate is None else rate)


def _opened(synthetic: Any) -> tuple[SyntheticSet, str]:
    """A set, read where its file or folder is given, and what it is called. Raises ValueError."""
    if isinstance(synthetic, SyntheticSet):
        return synthetic, "the set"
    if not isinstance(synthetic, str | Path):
        raise ValueError(f"synthetic is {shown(synthetic)} and must be a set, its file, or its run folder")
    return load(synthetic), str(synthetic)


def _check_given(dataset: Any, config: Any, log: Sequence[LogName], out: str | Path | None) -> None:
    """Raise ValueError for arguments of `distill` that mean nothing, before anything is made of them."""
    if dataset is None:
        raise ValueError(f"dataset is None and must be the images: give {SOURCES}, or a pair (train, test) of them")
    if config is not None and not isinstance(config, Config):
        example = config if isinstance(config, str) and config in NAMES else DEFAULT
        raise ValueError(
            f"config is {shown(config)} and must be a trajmatch.Config, such as trajmatch.preset({example!r})"
        )
    if log and out is None:
        raise ValueError(f"log is {list(log)} and needs out, the run folder that logs go on in")


def _settings_of(synthetic: SyntheticSet) -> Config:
    """The settings that a set was made with; the defaults where it says none, as one that was not made here."""
    held = synthetic.info.get("config")
    if isinstance(held, dict):
        return parsed(held, "the set")
    _, h, w = synthetic.space.shape
    start = preset(ANY_IMAGES)
    ipc = max(1, len(synthetic.X) // len(synthetic.classes))
    return replace(start, ipc=ipc, images=replace(start.images, size=h if h == w else None))


def _score(record: dict[str, Any]) -> Score:
    return Score(record["mean"], record["std"], record["n"], record["how"])


def _named(what: str, thing: Any) -> str | None:
    """A name, or that of a function or class; None of None. Raises ValueError for a module that is made already."""
    if isinstance(thing, nn.Module):
        raise ValueError(
            f"{what} is a {type(thing).__name__} that is made already, and every network needs weights of its own: "
            "give a function (or class) of the images' shape (c, h, w) and the number of classes that makes one"
        )
    return thing if thing is None or isinstance(thing, str) else name_of(what, thing)


def _unscored(folder: Path, config: Config) -> str:
    """What a folder that was not scored lacks, and how it is had."""
    data = " --data IMAGES" if config.data.endswith(IN_PYTHON) else ""
    return (
        f"{folder} has the set, and no accuracies, summary and report: score=True makes them; accuracies alone are "
        f"those of trajmatch.evaluate(...) and of the command {quoted(['evaluate', str(folder)])}{data}"
    )


def _type_name(dataset: Any) -> str:
    return type(dataset[0] if isinstance(dataset, tuple) and dataset else dataset).__name__
