"""What a distilled set tells about the images that it was made of: nearest images, and a membership attack.

`trajmatch diagnose nearest` says how far each synthetic image is from every training image. The attack guesses whether
an image was used: it takes those to be members on which a network's loss is below a threshold. The threshold is chosen
on half of the members and of the test images, and the guesses are about the other halves; chance is 50 %. A simple
attack that fails proves nothing about others.

    python examples/leaks.py        (its output is leaks.txt)
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import trajmatch
from trajmatch.core.draws import generator
from trajmatch.data.images import Dataset, Images, load
from trajmatch.data.networks.convnet import convnet
from trajmatch.data.synthetic import draw_real
from trajmatch.run.cli import main as command

IPC, NETWORKS = 10, 3


def losses(net: nn.Module, synthetic: trajmatch.SyntheticSet, images: Images, rows: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(net(synthetic.normalise(images.x[rows])), images.y[rows], reduction="none")


def attack(members: Tensor, others: Tensor, source: torch.Generator) -> float:
    """The share told right of members' and others' second halves (mean of the two), by the first halves' threshold."""
    a, b = (loss[torch.randperm(len(loss), generator=source)] for loss in (members, others))

    def right(threshold: Tensor, a: Tensor, b: Tensor) -> float:
        return float((a <= threshold).double().mean() + (b > threshold).double().mean()) / 2

    known_a, known_b = a[::2], b[::2]
    best = max(torch.cat([known_a, known_b]), key=lambda threshold: right(threshold, known_a, known_b))
    return right(best, a[1::2], b[1::2])


def trained_on(synthetic: trajmatch.SyntheticSet, rate: float | None, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = convnet(synthetic.space.shape, len(synthetic.classes), depth=2, width=16)
    return trajmatch.train(net, synthetic, trajmatch.recipe(synthetic, rate=rate, epochs=epochs), seed=seed)


def real_set(synthetic: trajmatch.SyntheticSet, images: Images, rows: Tensor) -> trajmatch.SyntheticSet:
    """Real images in the place of synthetic ones."""
    return replace(synthetic, X=synthetic.normalise(images.x[rows]), Y=F.one_hot(images.y[rows], 10).float())


def attacks(
    start: str, synthetic: trajmatch.SyntheticSet, digits: Dataset, seed: int, epochs: int
) -> Iterator[tuple[str, float, float]]:
    """What a network was trained on and who the members are; the attack's accuracy; the network's on test images."""
    every, tested = torch.arange(len(digits.train)), torch.arange(len(digits.test))
    first = draw_real(digits.train, 10, IPC, generator(seed, "initial images"))  # where distilling started
    some = draw_real(digits.train, 10, IPC, generator(seed, "a real set"))
    cases = {
        "all training images; these": (real_set(synthetic, digits.train, every), 0.03, every),
        "random real images; these": (real_set(synthetic, digits.train, some), 0.03, some),
        "distilled from real; its start": (synthetic, None, first),
        "distilled from real; experts' images": (synthetic, None, every),
    }
    if start == "noise":
        cases = {"distilled from noise; experts' images": (synthetic, None, every)}
    for name, (images, rate, members) in cases.items():
        for k in range(NETWORKS):
            net = trained_on(images, rate, epochs, k)
            guessed = attack(
                *(losses(net, synthetic, *of) for of in ((digits.train, members), (digits.test, tested))),
                generator(k, "halves"),
            )
            answers = net(synthetic.normalise(digits.test.x)).argmax(1)
            yield name, guessed, float((answers == digits.test.y).double().mean())


def main(seeds: int = 3, steps: int = 100, experts: int = 5, epochs: int = 300) -> None:
    """Print distances for each seed, and attacks: means and population standard deviations over seeds and networks."""
    torch.set_num_threads(1)
    config, found = trajmatch.preset("digits-ipc10"), dict[str, list[tuple[float, float]]]()
    config = replace(config, network=replace(config.network, width=16))
    for start, seed in product(("real", "noise"), range(seeds)):
        config = replace(config, outer=replace(config.outer, initial=start))
        with tempfile.TemporaryDirectory() as place, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            synthetic = trajmatch.distill(
                "digits", IPC, out=f"{place}/run", steps=steps, experts=experts, seed=seed, config=config, quiet=True
            )
            assert command(["diagnose", "nearest", "--run", f"{place}/run"]) == 0
            (near,) = json.loads(Path(f"{place}/run/diagnoses/nearest.json").read_text())["runs"]
        low, middle, _ = near["of_test_images"]["quantiles"]
        print(
            f"from {start}, seed {seed}: {min(near['distance']):.3f} to {max(near['distance']):.3f} to the nearest "
            f"training image; of test images {middle:.3f} (median), {low:.3f} (5 %)"
        )
        for name, *values in attacks(start, synthetic, load("digits", seed=seed), seed, epochs):
            found.setdefault(name, []).append(tuple(values))
    print(f"{'trained on; members':<38} {'attack right':>16} {'test accuracy':>16}")
    for name, values in found.items():
        columns = zip(*values, strict=True)
        print(f"{name:<38}" + "".join(f" {fmean(of):>7.1%} +- {pstdev(of):>5.1%}" for of in columns))
    print(f"seeds: {seeds}; networks of each seed: {NETWORKS}; outer steps: {steps}; {IPC} images per class")


if __name__ == "__main__":
    main()
