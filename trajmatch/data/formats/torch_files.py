"""`mtt` and `ddranking`: a set as the tensor files of MTT's program, of those after it, and of DD-Ranking.

Their images are in the network's input space, and their labels are classes (n,), or logits (n, C) whose softmax is
meant where labels were learned.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.data.formats.form import Form, is_hard, logits, normalising
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.data.whitening import InputSpace

READ = """\
import torch

images, step_size = torch.load("{images}", weights_only=True), float(torch.load("{lr}", weights_only=True))
"""
HARD = 'labels = torch.nn.functional.one_hot(torch.load("{labels}", weights_only=True), {classes}).float()\n'
SOFT = 'labels = torch.load("{labels}", weights_only=True).softmax(1)\n'
WHITENING = "whitening.pt"


class Names(NamedTuple):
    """How a program calls its files."""

    images: str
    labels: str
    lr: str


MTT = Names("images_best.pt", "labels_best.pt", "lr_best.pt")
DD_RANKING = Names("images.pt", "labels.pt", "lr.pt")


class Known(NamedTuple):
    """How DD-Ranking normalises the images of a data set that it knows, where it does not whiten them."""

    name: str
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]


_CIFAR = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FITTED = (
    "and fits a ZCA of its own to all training images: that of a set made without validation images differs a little"
)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_mtt(synthetic: SyntheticSet, place: Path, whitening: bool) -> Form:
    """Write the set into a folder as MTT's program keeps its best one, with what that leaves out beside it."""
    files = _write(MTT, synthetic, synthetic.images, place, whitening)
    note = f"`{MTT.images}` is what MTT's `evaluate_synset` takes, at the learning rate of `{MTT.lr}`."
    return _form(MTT, files, synthetic, (note,))


def write_dd_ranking(synthetic: SyntheticSet, place: Path, whitening: bool) -> Form:
    """Write the set into a folder as DD-Ranking's `compute_metrics` takes it.

    DD-Ranking normalises real images by numbers of its own, so that the images of a data set that it knows are
    normalised by these where they are not whitened.
    """
    known, zca = known_as(synthetic), synthetic.space.kind == "zca"
    if zca or known is None:
        files = _write(DD_RANKING, synthetic, synthetic.images, place, whitening)
        mapped = f"`use_zca: true`, {_FITTED}" if zca else "a `custom_val_trans` that does what `normalise` does"
        others = "" if known else " DD-Ranking has no data set with these classes, and must be taught it."
        return _form(DD_RANKING, files, synthetic, (f"{_label_note(synthetic)} It needs {mapped}.{others}",))
    mean, scale = torch.tensor(known.mean), torch.tensor(known.scale)
    theirs = InputSpace("channel", mean, scale, torch.empty(0), synthetic.space.shape)
    files = _write(DD_RANKING, synthetic, theirs.forward(synthetic.pixels), place, whitening)
    changed = (
        f"The images are normalised as DD-Ranking normalises {known.name}, and not as the set's own network saw them."
    )
    return _form(
        DD_RANKING, files, synthetic, (f"{_label_note(synthetic)} It needs `use_zca: false`. {changed}",), theirs
    )


def known_as(synthetic: SyntheticSet) -> Known | None:
    """The data set of DD-Ranking that has these classes, in their order, and images of this size."""
    classes, shape = synthetic.classes, tuple(synthetic.X.shape[1:])
    in_order = list(classes) == sorted(classes)
    if shape == (3, 32, 32) and classes == CIFAR10:
        return Known("CIFAR10", *_CIFAR)
    if shape == (3, 32, 32) and in_order and (len(classes), classes[0], classes[-1]) == (100, "apple", "worm"):
        return Known("CIFAR100", *_CIFAR)
    if shape == (3, 64, 64) and in_order and len(classes) == 200 and all(name[:1] == "n" for name in classes):
        return Known("TinyImageNet", *_IMAGENET)
    return None


def _label_note(synthetic: SyntheticSet) -> str:
    """Which evaluator of DD-Ranking takes the labels."""
    if is_hard(synthetic.Y):
        return "`HardLabelEvaluator` takes `hard_labels`."
    return "`SoftLabelEvaluator` takes `soft_labels`, with `soft_label_mode: S` and `soft_label_criterion: sce`."


def _write(names: Names, synthetic: SyntheticSet, images: Tensor, place: Path, whitening: bool) -> dict[str, str]:
    _, probabilities = synthetic.seen
    hard = is_hard(probabilities)
    torch.save(images.clone(), place / names.images)
    torch.save(synthetic.labels if hard else logits(probabilities), place / names.labels)
    torch.save(torch.tensor(synthetic.eta, dtype=torch.float64), place / names.lr)
    files = {
        names.images: "(n, c, h, w) as a network must see them",
        names.labels: "(n,) classes" if hard else "(n, C) logits of the labels, whose softmax is meant",
        names.lr: "() the learned step size, which is the learning rate",
    }
    if synthetic.space.kind == "zca" and whitening:
        torch.save(synthetic.space.to_tensors(), place / WHITENING)
        files[WHITENING] = "`mean` (d,), `scale` and `basis` of the ZCA that images must pass"
    return files


def _form(
    names: Names,
    files: dict[str, str],
    synthetic: SyntheticSet,
    notes: tuple[str, ...],
    space: InputSpace | None = None,
) -> Form:
    made = HARD if is_hard(synthetic.Y) else SOFT
    code = READ.format(**names._asdict()) + made.format(labels=names.labels, classes=len(synthetic.classes))
    load = f'torch.load("{WHITENING}", weights_only=True)'
    return Form(files, code + normalising(space or synthetic.space, load), notes)
