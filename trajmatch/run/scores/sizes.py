"""`trajmatch evaluate --sizes`: how good the leading parts of a set are, each as a smaller set of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trajmatch.data.synthetic import SyntheticSet, leading
from trajmatch.machine.processes import Peak
from trajmatch.measure.evaluate import Score
from trajmatch.pages.tables import as_text, mean_and_std
from trajmatch.run.assembly.letters import evaluation_rate
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.evaluation import obtained
from trajmatch.run.stages.trials import bench, set_trials


def sizes(
    setup: Setup, synthetic: SyntheticSet, wanted: Sequence[int], folder: Path, peak: Peak
) -> dict[str, dict[str, Any]]:
    """Test accuracies by images per class, of the first so many of each class, at the set's step size or the recipe's.

    folder: where a temporary file of the images may be put. Raises ValueError for sizes that the set does not have.
    """
    config, trials = setup.config, []
    rate = evaluation_rate(config, synthetic.eta)
    for size in wanted:
        if not 1 <= size <= config.ipc:
            raise ValueError(f"--sizes has {size} and must be from 1 to the set's {config.ipc} images per class")
        X, Y = leading(synthetic, size)
        trials += set_trials(str(size), config, X, Y, rate, config.evaluation.networks)
    with bench(setup, folder, peak) as on:
        found = on.accuracies(trials)
    how = {size: obtained(config, rate, f"the first {size} images of each class") for size in found}
    return {size: Score.of(values, how[size]).record() for size, values in found.items()}


def lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """The scores as a table."""
    return as_text(
        [{"images per class": size, "accuracy": mean_and_std(of), "n": of["n"]} for size, of in found.items()]
    )
