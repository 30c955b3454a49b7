"""The nearest real training image of each synthetic one: what leaked."""

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from trajmatch.core.draws import generator
from trajmatch.core.tiles import decoded
from trajmatch.data.grid import displayable
from trajmatch.data.synthetic import class_labels
from trajmatch.measure.nearest import nearest
from trajmatch.run.diagnose.diagnosis import Diagnosis
from trajmatch.run.diagnose.subject import SEED, Opened
from trajmatch.settings.options import Diagnose

COMPARED, SHOWN = 500, 10


def pieces(run: Opened, options: Diagnose) -> int:
    """Two: every synthetic image, and some test images, against every training image."""
    return 2


def look(run: Opened, options: Diagnose, advance: Callable[[int], None]) -> dict[str, Any]:
    """The distances of the run's images, and for comparison those of real test images, in pixels in [0, 1]."""
    dataset, space = run.setup.dataset, run.setup.material.space
    pixels = space.inverse(decoded(run.last.X.cpu(), run.rule.factor))
    real = _pixels(dataset.train.x)
    distance, index = nearest(pixels, real)
    advance(1)
    some = torch.randperm(len(dataset.test), generator=generator(SEED, "nearest"))[:COMPARED]
    between, _ = nearest(_pixels(dataset.test.x[some]), real)
    advance(1)
    labels = class_labels(dataset.num_classes, run.config.ipc * run.rule.factor**2)
    shown = [int(k) for k in torch.linspace(0, len(pixels) - 1, min(SHOWN, len(pixels))).round()]
    return {
        "step": run.last.step,
        "distance": distance.tolist(),
        "training_image": index.tolist(),
        "same_class": (dataset.train.y[index] == labels).tolist(),
        "classes": [dataset.names[int(label)] for label in labels],
        "of_test_images": {"n": len(between), "quantiles": between.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()},
        "closer_than_any_test_image": int((distance < between.min()).sum()),
        "pictures": [
            {
                "k": k,
                "synthetic": displayable(pixels[k : k + 1])[0].permute(1, 2, 0).tolist(),
                "real": real[index[k]].permute(1, 2, 0).tolist(),
            }
            for k in shown
        ],
    }


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def draw(numbers: dict[str, Any]) -> Any:
    """For each run a line of synthetic images, and below them their nearest real ones."""
    runs = numbers["runs"]
    columns = max(len(run["pictures"]) for run in runs)
    figure = Figure(figsize=(1.15 * columns, 3.1 * len(runs)), layout="constrained")
    grid = figure.subplots(2 * len(runs), columns, squeeze=False)
    for place in grid.flat:
        place.set_axis_off()
    for r, run in enumerate(runs):
        for c, picture in enumerate(run["pictures"]):
            k = picture["k"]
            for line, key in enumerate(("synthetic", "real")):
                shown = torch.tensor(picture[key])
                grid[2 * r + line][c].imshow(shown.expand(-1, -1, 3).clamp(0, 1).numpy())
            grid[2 * r][c].set_title(run["classes"][k], fontsize=7)
            grid[2 * r + 1][c].set_title(f"{run['distance'][k]:.3f}", fontsize=7)
    middle = runs[0]["of_test_images"]["quantiles"][1]
    names = ", ".join(run["name"] for run in runs)
    figure.suptitle(
        f"{names}: above synthetic images, below the nearest of the training set and the distance; a real test image's "
        f"nearest is {middle:.3f} away (median)",
        fontsize=8,
    )
    return figure


DIAGNOSIS = Diagnosis(pieces, look, draw)
