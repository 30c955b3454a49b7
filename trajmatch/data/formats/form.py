"""What every format of an exported set has in common: the files it names, and how a user's program reads them.

Legend: n images of c x h x w, d = c h w, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trajmatch.data.synthetic import SyntheticSet
from trajmatch.data.whitening import InputSpace

# How far a pixel may be from its place among 256 levels where PNG is said to lose nothing: rounding of float32.
SAME = 1e-5


class Form(NamedTuple):
    """An exported set as its README tells it.

    files: names of files and what they hold.
    code:  Python that makes `images` (n, c, h, w) as a network must see them, `labels` (n, C) and `step_size` of them.
    notes: sentences about what a user must know of this format.
    """

    files: dict[str, str]
    code: str
    notes: tuple[str, ...] = ()


def eight_bits(pixels: Tensor) -> Tensor:
    """Pixels (n, c, h, w) as uint8: cut to [0, 1] and rounded to one of 256 levels."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def lost(pixels: Tensor) -> str | None:
    """What of pixels (n, c, h, w) is lost in eight bits, in words; None where nothing is."""
    gap = float((eight_bits(pixels).to(pixels.dtype) / 255 - pixels).abs().max())
    if gap <= SAME:
        return None
    outside = float(((pixels < -SAME) | (pixels > 1 + SAME)).double().mean())
    cut = f", and cuts off the {outside:.1%} of them that lie outside of [0, 1]" if outside else ""
    return f"PNG rounds pixels to 256 levels{cut}: the largest change is {gap:.3g}"


def check_png(synthetic: SyntheticSet, name: str) -> None:
    """Raise ValueError where the images have other channels than PNG files do."""
    if (c := synthetic.X.shape[1]) not in (1, 3):
        raise ValueError(
            f"--format {name} is made of PNG images, which have 1 or 3 channels, and those of this set have {c}: "
            "--format npz, mtt and ddranking hold any number"
        )


def logits(probabilities: Tensor) -> Tensor:
    """Logits (n, C) whose softmax is the probabilities (n, C); a probability of 0 becomes the least of float32."""
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()


def is_hard(probabilities: Tensor) -> bool:
    """Whether each row of probabilities (n, C) is of one class alone."""
    return bool(((probabilities == 0) | (probabilities == 1)).all())


def normalising(space: InputSpace, load: str) -> str:
    """Python of a function `normalise` that maps pixels (n, c, h, w) in [0, 1] to what a network must see.

    load: an expression for the whitening's statistics by name, as tensors.
    """
    if space.kind == "none":
        return "def normalise(pixels):\n    return pixels\n"
    if space.kind == "channel":
        mean, scale = (values.double().tolist() for values in (space.mean, space.scale))
        return (
            f"mean, scale = torch.tensor({mean}), torch.tensor({scale})\n\n"
            "def normalise(pixels):\n"
            "    return (pixels - mean[:, None, None]) / scale[:, None, None]\n"
        )
    low = space.basis.shape[1] < len(space.mean)
    power = "*power, rest = (scale**-0.5).tolist()\npower = torch.tensor(power)\n" if low else "power = scale**-0.5\n"
    mapped = "flat * rest + flat @ basis * (power - rest) @ basis.T" if low else "flat @ basis * power @ basis.T"
    return (
        f"whitening = {load}\n"
        'mean, scale, basis = (whitening[name] for name in ("mean", "scale", "basis"))\n'
        f"{power}\n"
        "def normalise(pixels):\n"
        "    flat = pixels.flatten(1) - mean\n"
        f"    return ({mapped}).reshape(pixels.shape)\n"
    )
