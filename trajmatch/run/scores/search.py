"""`trajmatch search`: does a distilled set rank networks as the whole data set does?"""

from dataclasses import replace
from itertools import product
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from trajmatch.core.draws import derive
from trajmatch.data.checksums import identity
from trajmatch.data.file_names import SEARCH
from trajmatch.data.files import write_record
from trajmatch.data.kept import BELONGS
from trajmatch.data.networks.convnet import build
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.messages import LOGGER, counted
from trajmatch.measure.agreement import kendall, spearman
from trajmatch.pages import records
from trajmatch.pages.tables import as_text
from trajmatch.run.assembly.letters import evaluation_rate
from trajmatch.run.assembly.setup import Setup, factory
from trajmatch.run.folder import commit
from trajmatch.run.scores.evaluate import scores_file
from trajmatch.run.stages.random_images import RandomImages, chosen_on
from trajmatch.run.stages.trials import Trial, bench, real_trial, set_trials
from trajmatch.settings.inputs import Network
from trajmatch.settings.kinds import checked
from trajmatch.settings.options import Search

AXES = "depths", "widths", "norms", "poolings"


def once(options: Search) -> Search:
    """The same space, with every value of its axes once: a network that stands there twice is no second network."""
    axes: dict[str, Any] = {axis: tuple(dict.fromkeys(getattr(options, axis))) for axis in AXES}
    return replace(options, **axes)


def space(options: Search, shape: tuple[int, int, int], num_classes: int) -> list[Network]:
    """The networks of the space, in order. Raises ValueError for one that can't be had on these images."""
    axes = product(options.depths, options.widths, options.norms, options.poolings)
    found = [Network("convnet", *values) for values in axes]
    if len(found) < 2:
        raise ValueError(f"--depths, --widths, --norms and --poolings make {len(found)} network: there is no order")
    for network in found:
        try:
            build(factory(network, shape, num_classes), 0)
        except ValueError as error:
            what = str(error).split("; ")[0].replace("--network.depth is", "--depths has")
            raise ValueError(f"{what}: leave it out") from None
    return found


def check(options: Search) -> None:
    """Raise ValueError for what is none of the values of its flag, and for an axis without values."""
    for axis in AXES:
        if not getattr(options, axis):
            raise ValueError(f"--{axis} is empty and must have at least one value")
    checked(options)


def name(network: Network) -> str:
    """A network of the space in words."""
    return f"depth {network.depth}, width {network.width}, {network.norm} norm, {network.pooling} pooling"


def search(setup: Setup, options: Search, synthetic: SyntheticSet, file: Path, command: str) -> Path:
    """Accuracies of every network of a space, trained on the set, on random images and on all training images.

    The first two are of validation images, and a network is chosen by them; the last are of test images, and are what
    the choice loses by. Writes rank correlations between them. Every trained network is kept, so that an interrupted
    search goes on. file: the set's, beside which the result is written. Returns its path. Raises ValueError, also where
    there are no validation images.
    """
    dataset = setup.dataset
    if not len(dataset.validation):
        raise ValueError("--images.validation is 0, and search chooses networks by their accuracy on such images")
    options = once(options)
    networks, proxies = space(options, dataset.shape, dataset.num_classes), options.proxy_networks
    LOGGER.info(f"{counted(len(networks), 'network')}, {proxies} of each on the set and on random images, one on all")
    trials: list[Trial] = []
    for network in networks:
        trials += _trials(setup, options, synthetic, network)
    with bench(setup, file.parent) as on:
        found = on.accuracies(trials)
    rows = [{"network": name(n), **{k: fmean(found[f"{k}: {name(n)}"]) for k in SOURCES}} for n in networks]
    result = {
        "space": {field: list(getattr(options, field)) for field in AXES},
        "how": _how(setup, options, synthetic),
        "networks": rows,
        "agreement": {source: agreement(rows, source) for source in ("set", "random")},
        "command": command,
        "commit": commit(),
    }
    place = scores_file(file, SEARCH)
    write_record(place, {**result, BELONGS: {"set": identity(file), "data": setup.material.content}})
    return place


SOURCES = ("set", "random", "real")


def _trials(setup: Setup, options: Search, synthetic: SyntheticSet, network: Network) -> list[Trial]:
    """What is trained of one network."""
    config, count = setup.config, options.proxy_networks
    rate = evaluation_rate(config, synthetic.eta)
    trials = set_trials(f"set: {name(network)}", config, *synthetic.seen, rate, count, "validation")
    trials += RandomImages(setup, count, (rate,)).of(f"random: {name(network)}", rate, count, "validation")
    recipe = replace(
        setup.expert_training(), momentum=options.real_momentum, epochs=options.real_epochs, sharpness=None
    )
    trials = [one._replace(network=network) for one in trials]
    return [*trials, real_trial(f"real: {name(network)}", recipe, derive(config.seed, "search"), network)]


def _how(setup: Setup, options: Search, synthetic: SyntheticSet) -> dict[str, str]:
    """What was measured on what, for each of `SOURCES`, and how the choice was made."""
    material, dataset, training = setup.material, setup.dataset, setup.expert_training()
    at = f"recipe at the set's step size {synthetic.eta:.4g}"
    if setup.config.evaluation.recipe == "adamw":
        at = f"recipe adamw at {evaluation_rate(setup.config, synthetic.eta):.4g}"
    return {
        "set": f"accuracy on {len(dataset.validation)} {chosen_on(material)}; mean of {options.proxy_networks} "
        f"networks trained on the set, by the evaluation's {at}",
        "random": f"accuracy on the same validation images; mean of {options.proxy_networks} networks trained in the "
        "same way on as many random real images, drawn anew for each",
        "real": f"accuracy on {len(dataset.test)} test images; one network trained on all {len(dataset.train)} "
        f"training images, epochs: {options.real_epochs}, SGD at {training.lr:g} in batches of {training.batch} with "
        f"momentum {options.real_momentum:g}",
        "choice": "the best on validation images, trained on the set or on random images; what it loses is read off "
        "test images, trained on all",
    }


def agreement(rows: list[dict[str, Any]], source: str) -> dict[str, Any]:
    """Rank correlations of a source's accuracies with those after training on all images, and the source's choice.

    regret: accuracy, after training on all images, of the best network less that of the one that the source puts
    first. A correlation is None where all accuracies of one side are the same.
    """
    proxy, real = [row[source] for row in rows], [row["real"] for row in rows]
    first = max(rows, key=lambda row: row[source])
    return {
        "spearman": _known(spearman(proxy, real)),
        "kendall": _known(kendall(proxy, real)),
        "chosen": first["network"],
        "regret": max(real) - first["real"],
    }


def _known(value: float) -> float | None:
    """None for nan, which JSON does not have."""
    return value if isfinite(value) else None


def lines(path: Path) -> list[str]:
    """A result as text."""
    found = records.record(path, records.SEARCH)
    rows = sorted(found["networks"], key=lambda row: -row["real"])
    titles = {"real": "all (test)", "set": "set (validation)", "random": "random (validation)"}
    text = as_text([{"network": row["network"]} | {t: f"{row[key]:.2%}" for key, t in titles.items()} for row in rows])
    for source, of in found["agreement"].items():
        rho, tau = ("-" if of[key] is None else f"{of[key]:.2f}" for key in ("spearman", "kendall"))
        text.append(
            f"  {source}: Spearman {rho}, Kendall {tau}; its choice, {of['chosen']}, is "
            f"{100 * of['regret']:.2f} points below the best"
        )
    text += [f"  {source}: {how}" for source, how in found["how"].items()]
    return [*text, f"  written to {path}"]
