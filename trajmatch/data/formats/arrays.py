"""`npz`: a set as NumPy arrays, lossless. No pickle is needed to read it."""

from pathlib import Path

import numpy as np

from trajmatch.data.formats.form import Form, normalising
from trajmatch.data.synthetic import SyntheticSet

NAME, WHITENING = "set.npz", "whitening.npz"
READ = """\
import numpy as np, torch

found = {name: torch.from_numpy(value) for name, value in np.load("set.npz").items() if value.dtype.kind in "fi"}
images, labels, step_size = found["images"], found["probabilities"], float(found["step_size"])
"""
LOAD = '{name: torch.from_numpy(value) for name, value in np.load("whitening.npz").items()}'
HOLDS = (
    "`images` (n, c, h, w) as a network must see them, `pixels` (n, c, h, w) of which they are made, `labels` (n,), "
    "`probabilities` (n, C), `step_size` and the names of the `classes`; all lossless"
)


def write(synthetic: SyntheticSet, place: Path, whitening: bool) -> Form:
    """Write the set into a folder; whitening: the statistics of a ZCA beside it."""
    write_set(synthetic, place / NAME)
    files = {NAME: HOLDS, **write_whitening(synthetic, place, whitening)}
    return Form(files, READ + normalising(synthetic.space, LOAD))


def write_set(synthetic: SyntheticSet, path: Path) -> None:
    """Write what a network sees of a set, its labels and its step size."""
    images, probabilities = synthetic.seen
    np.savez(
        path,
        images=images.numpy(),
        pixels=synthetic.pixels.numpy(),
        labels=synthetic.labels.numpy(),
        probabilities=probabilities.numpy(),
        step_size=np.float64(synthetic.eta),
        classes=np.array(synthetic.classes),
    )


def write_whitening(synthetic: SyntheticSet, place: Path, wanted: bool) -> dict[str, str]:
    """Write the statistics of a ZCA, where there is one and it is wanted; what there is to say of the file."""
    if synthetic.space.kind != "zca" or not wanted:
        return {}
    space = synthetic.space
    np.savez(place / WHITENING, mean=space.mean.numpy(), scale=space.scale.numpy(), basis=space.basis.numpy())
    return {WHITENING: "`mean` (d,), `scale` and `basis` of the ZCA that images must pass"}
