"""Published presets: every cell for every method is a configuration that holds together, with its paper's numbers."""

from itertools import product
from typing import get_args

import pytest
import tyro

from trajmatch.core.vector import Layout
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.run.cli import main
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, MethodName
from trajmatch.settings.flat import flatten
from trajmatch.settings.presets import NAMES, PRESETS, PUBLISHED, about, preset
from trajmatch.settings.published import CELLS, DATA, parameters, row

METHODS: tuple[MethodName, ...] = get_args(MethodName)


@pytest.mark.parametrize(("name", "method"), list(product(NAMES, METHODS)))
def test_every_preset_holds_together_for_every_method(name: str, method: MethodName) -> None:
    config = resolve(preset(name, method))
    assert config.method == method
    m = config.matching
    assert m.window_start is not None
    assert m.first_epoch < m.window_start <= m.last_epoch
    if name in PUBLISHED:
        dataset, ipc = PUBLISHED[name]
        assert (config.ipc, config.data) == (ipc, dataset)
        assert config.images.size == DATA[dataset].size
        assert m.batch is None or m.batch < ipc * DATA[dataset].classes
        assert config.expert.epochs >= m.last_epoch - 1 + m.expert_epochs


# T, M, T+, mini-batch, rate of the images: copied by hand from each paper's table.
@pytest.mark.parametrize(
    ("name", "method", "numbers"),
    [
        ("cifar10-ipc1", "satm", (50, 2, 2, None, 1000)),
        ("cifar10-ipc10", "satm-fi", (30, 2, 20, None, 50)),
        ("cifar100-ipc50", "satm", (80, 2, 40, 500, 1000)),
        ("tiny-imagenet-ipc10", "satm", (20, 2, 40, 200, 10000)),
        ("cifar10-ipc50", "ftd", (30, 2, 40, None, 1000)),
        ("cifar100-ipc1", "mtt", (20, 3, 20, None, 1000)),
        ("imagenette-ipc1", "mtt", (20, 2, 10, None, 1000)),
        ("cifar10-ipc10", "datm", (80, 2, 20, None, 100)),
        ("tiny-imagenet-ipc50", "datm", (20, 2, 70, 1000, 100)),
        # TESLA's rates are for half a gradient: halved, so that the images move as published.
        ("cifar10-ipc1", "tesla", (50, 2, 5, None, 500)),
        ("imagenet-1k-ipc1", "tesla", (10, 3, 10, 100, 5000)),
    ],
)
def test_numbers_are_those_of_the_papers(name: str, method: MethodName, numbers: tuple[object, ...]) -> None:
    config = preset(name, method)
    m = config.matching
    assert (m.inner_steps, m.expert_epochs, m.last_epoch, m.batch, config.outer.lr_images) == numbers


# T, window, its radius, real images of a class, mini-batch, and Adam's rate on images of norm 1: as published.
@pytest.mark.parametrize(
    ("name", "method", "numbers", "rate"),
    [
        ("cifar10-ipc10", "rat-bptt", (200, 60, None, 500, None), 0.001),
        ("cifar100-ipc1", "rat-bptt", (130, 90, None, 50, None), 0.0003),
        ("cifar10-ipc10", "at-bptt", (200, 40, 10, 500, None), 0.001),
        ("cifar100-ipc10", "at-bptt", (300, 100, 20, 10, 100), 0.001),
        ("tiny-imagenet-ipc10", "at-bptt", (300, 100, 30, 5, 50), 0.0003),
    ],
)
def test_numbers_of_windows_are_those_of_the_papers(
    name: str, method: MethodName, numbers: tuple[object, ...], rate: float
) -> None:
    config = resolve(preset(name, method))
    m, b = config.matching, config.baseline
    assert (m.inner_steps, m.differentiated_steps, b.window_radius, b.batch, m.batch) == numbers
    assert b.lr_images == pytest.approx(rate * (3 * config.images.size**2) ** 0.5)
    assert (b.inner, b.inner_lr, m.rate, m.augment, config.outer.initial) == (
        "adam", 0.001, "fixed", "flip_rotate", "noise",
    )  # fmt: skip
    assert (b.window, b.window_stages) == (("random", "thirds") if method == "rat-bptt" else ("adaptive", "accuracy"))
    assert row(*PUBLISHED[name], method)[1]
    assert not row("cifar10", 50, method)[1]


def test_datms_curriculum_and_labels() -> None:
    config = resolve(preset("cifar10-ipc50", "datm"))
    m, o = config.matching, config.outer
    assert (m.first_epoch, m.window_start, m.window_steps, m.last_epoch) == (0, 20, 2000, 40)
    assert (o.lr_labels, o.momentum_labels, o.ema, o.initial, o.labels) == (2.0, 0.9, 0.0, "correct", "learned")
    assert (config.expert.batch, config.expert.epochs, config.expert.flat) == (128, 100, "yes")
    assert resolve(preset("cifar10-ipc1", "datm")).outer.guard == 1.1
    assert resolve(preset("cifar10-ipc50", "satm-da")).expert.flat == "no"


def test_which_numbers_are_published() -> None:
    assert row("cifar10", 1, "satm")[1]
    assert row("cifar10", 1, "datm")[1]
    assert not row("cifar10", 1, "satm-contra")[1]  # SATM's, and so ours
    assert not row("cifar10", 3, "mtt")[1]
    assert not row("imagenette", 10, "mtt")[1]  # that of one image per class
    assert row("imagenette", 10, "mtt")[0] == row("imagenette", 1, "mtt")[0]
    assert "published for ftd, datm, satm, rat-bptt, at-bptt" in about("cifar10-ipc10")
    assert "numbers are ours" in about("imagenet-1k-ipc50")
    with pytest.raises(ValueError, match="no settings for nothing with 1 images"):
        row("nothing", 1, "mtt")


@pytest.mark.parametrize("dataset", DATA)
def test_the_number_of_parameters_is_counted_right(dataset: str) -> None:
    data = DATA[dataset]
    network, _ = build(lambda: convnet((3, data.size, data.size), data.classes, data.depth, 128), 0)
    assert parameters(data, 128, data.depth) == Layout.of(network).size


def test_the_command_line_takes_the_method_s_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "cifar10-ipc10", "--method", "datm", "--matching.inner-steps", "70"]) == 0
    out = capsys.readouterr().out
    assert "method: datm" in out
    assert "inner_steps: 70" in out  # a flag goes before the preset
    assert "window_steps: 1000" in out
    assert main(["presets"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(NAMES) == [*PRESETS, *(f"{d}-ipc{k}" for d, k in CELLS)]


def test_a_preset_survives_the_round_trip_through_flags() -> None:
    from trajmatch.settings.flat import flags

    config = resolve(preset("cifar100-ipc10", "satm-da"))
    assert tyro.cli(Config, args=flags(flatten(config))) == config
