"""What a GPU would refuse, or would be waited for, found without one: steps and trainings on a stand-in (device.py)."""

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.device import META, Device, MixedDevicesError
from trajmatch.core import inner, sharpness
from trajmatch.core.augment import FAMILIES, STANDARD, Draw, families
from trajmatch.core.estimators import ESTIMATORS
from trajmatch.core.mixed import MIXED
from trajmatch.core.sharpness import FlatGSAM
from trajmatch.data.material import Material, shared
from trajmatch.data.networks.architectures import named
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.measure.evaluate import train_and_test
from trajmatch.methods import engines
from trajmatch.methods.engines import PRECISIONS, Engine
from trajmatch.methods.experts import Real, expert
from trajmatch.methods.segment_weights import RULES
from trajmatch.methods.state import OuterState
from trajmatch.methods.training import AdamWTraining, Training, train
from trajmatch.run.assembly import setup as assembly
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages import experts as expert_stage
from trajmatch.run.stages import trials
from trajmatch.run.stages.loop import Loop
from trajmatch.run.stages.real_batches import RealBatches
from trajmatch.run.stages.start import first_state
from trajmatch.run.stages.steps import STEPS, Matching, Take
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import parsed
from trajmatch.settings.methods import METHODS

SMALL = {
    "data": "digits", "images.classes": ["0", "1", "2"], "images.normalise": "none", "ipc": 2, "steps": 9,
    "network.width": 8, "network.depth": 2, "expert.epochs": 4, "matching.inner_steps": 3, "matching.expert_epochs": 1,
    "matching.last_epoch": 3, "outer.initial": "real", "outer.threads": 1, "baseline.batch": 6, "baseline.updates": 2,
    "baseline.epochs": 1,
}  # fmt: skip
STEPPING = [name for name, method in METHODS.items() if not method.still]
# Steps that read values on purpose, by method and setting: the places of the reads, and why.
READING = {
    # Which part of the images is chosen, and how many of them are frozen, decides the shapes of what comes next.
    ("mdc", "random"): {"multisize.Parts.of", "multisize.Parts.frozen"},
    # Where the window lies is drawn on the CPU from the norms of all gradients, and decides what is differentiated.
    ("rat-bptt", "adaptive"): {"real_loss.adaptive_window"},
    # So does the stage of the run. What the stand-in reads means the middle one, whose windows are drawn without norms.
    ("at-bptt", "adaptive"): {"real_loss.Progress.of"},
}
RULES_OF_SHARPNESS = [rule for rule in vars(sharpness).values() if isinstance(rule, type) and is_dataclass(rule)]


@dataclass(frozen=True)
class Held:
    """What all tests share: the digits, and the files of three experts."""

    material: Material
    trajectories: list[Trajectory]


def config(**changes: Any) -> Config:
    return resolve(parsed({**SMALL, **{key.replace("__", "."): value for key, value in changes.items()}}))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    folder, about = tmp_path_factory.mktemp("experts"), config()
    material, trajectories = assembly.load_material(about), []
    _, theta = Setup(about, material).built()
    for k in range(3):
        path = folder / f"expert_{k:04}.safetensors"
        rows = [theta * (1 + 0.1 * t + 0.01 * k) for t in range(5)]
        save_trajectory(path, rows, {"index": k, "epochs": 4, "settings": {}})
        trajectories.append(Trajectory.open(path))
    return Held(material, trajectories)


def on_device(held: Held, about: Config) -> Setup:
    """The setup with the stand-in as its device, which no setting can name."""
    made = Setup(about, held.material)
    vars(made)["device"] = META
    return made


def begun(held: Held, about: Config) -> tuple[Take, OuterState]:
    """What takes the outer steps on the device, and the first state there."""
    with Device():  # before the first step the device may be read
        take = STEPS[METHODS[about.method].steps](on_device(held, about), held.trajectories).take
    state = first_state(Setup(about, held.material), held.trajectories)
    return take, placed(state)


def placed(state: OuterState) -> OuterState:
    return OuterState(*(value if name == "steps" else value.to(META) for name, value in state._asdict().items()))


def waits(take: Take, state: OuterState, steps: int = 1, before: int = 0) -> Device:
    """Take steps; what was waited for in them.

    before: steps that are not counted; of a baseline the first one moves the real images to the device.
    """
    with Device():
        for _ in range(before):
            state, *_ = take(state)
    with Device() as device:
        for _ in range(steps):
            state, *_ = take(state)
    assert all(value.device == META for name, value in state._asdict().items() if name != "steps")
    assert int(state.steps) == before + steps
    return device


def assert_never_waits(take: Take, state: OuterState) -> None:
    device = waits(take, state)
    assert device.reads == []
    assert device.uploads == []


def matching(held: Held, **changes: Any) -> tuple[Matching, OuterState]:
    take, state = begun(held, config(**changes))
    assert isinstance(take, Matching)
    return take, state


@pytest.mark.parametrize(
    ("method", "window"),
    [*((name, "random") for name in STEPPING), *((name, "adaptive") for name in ("rat-bptt", "at-bptt"))],
)
def test_steps_of_every_method(method: str, window: str, held: Held) -> None:
    few = {"steps": 2, "before": 1} if METHODS[method].steps != "matching" else {"steps": 2}
    device = waits(*begun(held, config(method=method, baseline__window=window)), **few)
    assert set(device.reads) == READING.get((method, window), set())
    assert device.uploads == []


@pytest.mark.parametrize("method", ["satm", "tesla", "dsa", "dm", "rat-bptt"])
def test_steps_on_tiles(method: str, held: Held) -> None:
    few = {"steps": 2, "before": 1} if METHODS[method].steps != "matching" else {"steps": 2}
    device = waits(*begun(held, config(method=method, factor=2, matching__batch=7)), **few)
    assert set(device.reads) == READING.get((method, "random"), set())
    assert device.uploads == []


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator(name: str, held: Held) -> None:
    part = {"matching__differentiated_steps": 2} if name in ("truncated", "random-window") else {}
    word, halved = name.removesuffix("-halved"), name.endswith("-halved")
    take, state = matching(held, method="mtt", matching__estimator=word, matching__halved=halved, **part)
    assert take.rule.estimator == name
    assert_never_waits(take, state)


@pytest.mark.parametrize("name", ["adjoint", "unrolled", "truncated", "tesla"])
def test_an_early_stop_is_read_once_in_a_trajectory(name: str, held: Held) -> None:
    # Which iterate is the nearest decides what is differentiated.
    words = {"matching__segments": 3, "matching__early_stop": True, "matching__masked_share": 0.5}
    take, state = matching(held, method="contra", matching__estimator=name, **words)
    device = waits(take, state)
    assert device.reads == ["matching.nearest"] * 3
    assert device.uploads == []


def test_a_mask_a_straight_path_and_a_norm_are_not_waited_for(held: Held) -> None:
    words = {"matching__masked_share": 0.5, "matching__path": "straight", "outer__image_norm": 1.0}
    for optimiser in ("sgd", "adam"):
        assert_never_waits(*matching(held, method="satm", outer__optimiser=optimiser, **words))


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("kind", RULES_OF_SHARPNESS)
def test_every_sharpness_rule(kind: Callable[[float], sharpness.Sharpness], stale: bool, held: Held) -> None:
    take, state = matching(held, method="satm", outer__relative_clip=2.0, outer__clip=1.0, outer__ema=0.9)
    assert_never_waits(replace(take, rule=replace(take.rule, sharpness=kind(0.1), stale=stale)), state)


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_and_micro_batches(precision: str, micro_batch: int | None, held: Held) -> None:
    take, state = matching(held, method="satm", matching__batch=4)
    student = engines.student(take.setup.network, Engine("eager", precision, micro_batch=micro_batch))
    assert_never_waits(replace(take, student=student), state)


@pytest.mark.parametrize("mixed", MIXED)
def test_every_mixed_derivative(mixed: str, held: Held) -> None:
    assert_never_waits(*matching(held, method="mtt", matching__mixed=mixed))


@pytest.mark.parametrize("together", ["no", "yes"])
@pytest.mark.parametrize(
    ("method", "combining"), [*(("contra", rule) for rule in RULES), ("satm", "mean"), ("satm-contra", "mean")]
)
def test_three_segments(combining: str, method: str, together: str, held: Held) -> None:
    words = {"matching__segments": 3, "matching__concurrent_from": 0, "matching__together": together}
    take, state = matching(held, method=method, **words)
    assert take.rule.together == (together == "yes")
    device = waits(replace(take, rule=replace(take.rule, combining=combining)), state)
    # torchjd's rules see the Gramian on the CPU: its docstring says that this waits, once for each trajectory.
    count = int(combining not in ("mean", "adaptive"))
    assert device.reads == ["segment_weights.weights"] * count
    assert device.uploads == ["segment_weights.weights"] * count


@pytest.mark.parametrize("labels", ["hard", "learned", "teacher"])
@pytest.mark.parametrize("method", ["mtt", "satm"])
def test_every_kind_of_labels(method: str, labels: str, held: Held) -> None:
    assert_never_waits(*matching(held, method=method, outer__labels=labels, matching__segments=2))


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"identity"}))
def test_every_family_of_augmentations_also_where_bits_must_repeat(family: str, held: Held) -> None:
    take, state = matching(held, method="mtt", matching__augment=family, matching__inner_steps=2)
    assert_never_waits(take, state)
    torch.use_deterministic_algorithms(True)
    try:
        assert_never_waits(take, state)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_loop_waits_once_in_a_step(held: Held, tmp_path: Path) -> None:
    about = config(method="satm", outer__snapshots=1)
    with Device():
        loop = Loop(on_device(held, about), held.trajectories, tmp_path)
    with Device() as device:
        loop.step()
        loop.step()
    assert device.reads == ["loop._row"] * 2  # the row of its log, in one transfer
    assert device.uploads == []


def images(n: int = 30) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(META), torch.arange(n).to(META) % 4


RECIPE = Training(0.1, 2, 8, 0.9, 1e-3, families(STANDARD), lr_drop=0.5)


ADAMW = AdamWTraining(0.1, 2, 8, weight_decay=1e-3, families=families(STANDARD), mix=1.0)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, sharpness=FlatGSAM()), ADAMW])
def test_training_steps_never_wait(recipe: Training) -> None:
    network, theta = build(lambda: convnet((3, 16, 16), 4, 2, 8), 0)
    student, (x, y) = engines.student(network.to(META), Engine()), images()
    theta, labels = theta.to(META), F.one_hot(y, 4).to(x.dtype)
    with Device() as device:
        steps = [now.step for now in train(student.gradient, theta, x, labels, recipe, 0)]
    assert steps == list(range(1, 9))
    assert (device.reads, device.uploads) == ([], [])


def test_an_expert_is_read_where_an_epoch_ends() -> None:
    data = Real(*images())
    flat = replace(RECIPE, sharpness=FlatGSAM())
    with Device() as device:
        expert(lambda: convnet((3, 16, 16), 4, 2, 8), data, data, 4, flat, 0, 0)
    # Its weights are kept, asked whether they are finite, and tested; in the end on the training images too.
    begin, epoch, end = ["experts.expert"], ["experts.expert"] * 2, ["training.accuracy"]
    assert device.reads == [*begin, *end, *epoch, *end, *epoch, *end, *end]


@pytest.mark.parametrize("name", ["convnet", "convnet with dropout", "vgg11-batch", "resnet18", "vit", "lenet"])
def test_a_scored_network_is_read_once(name: str) -> None:
    def with_dropout() -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), convnet((3, 16, 16), 4, 2, 8))

    small = {"convnet": lambda: convnet((3, 16, 16), 4, 2, 8), "convnet with dropout": with_dropout}
    make = small.get(name) or partial(named(name), (3, 16, 16), 4)
    x, y = images()
    with Device() as device:
        train_and_test(make, x, F.one_hot(y, 4).to(x.dtype), RECIPE, x, y, 0)
    assert device.reads == ["evaluate.train_and_test"]


def test_the_images_are_moved_once_for_all_networks_of_a_process(held: Held, tmp_path: Path) -> None:
    about, told = config(expert__epochs=1, matching__last_epoch=1), lambda value: None
    X, Y = torch.rand(3, *held.material.dataset.shape, generator=torch.Generator().manual_seed(0)), torch.eye(3)
    with shared(held.material, tmp_path) as path, Device() as device:
        for k in range(2):
            expert_stage._train_one(path, about, "meta", k, tmp_path / f"{k}.safetensors", {}, told)
        recipe = replace(RECIPE, batch=500)
        chosen = [one._replace(recipe=recipe) for one in trials.set_trials("k", about, X, Y, 0.1, 2)]
        for trial in [*chosen, trials.real_trial("w", recipe, 0)]:
            trials._train_one(path, about, "meta", trial, told)
    # Images and labels for training and for tests.
    assert device.uploads.count("material.Mapped.on") == 4


def mixed_in_augmentation(patch: pytest.MonkeyPatch) -> None:
    """The parameters of an augmentation stay where they were drawn."""
    patch.setattr(inner, "augment", lambda x, a: FAMILIES[a.family](x, a.u))


def mixed_in_an_index(patch: pytest.MonkeyPatch) -> None:
    """Images on the CPU are indexed by what lies on the device."""

    def draw(self: RealBatches, source: torch.Generator) -> list[Tensor]:
        return [self.images.x[members[: self.batch].to(self.device)].to(self.device) for members in self.members]

    patch.setattr(RealBatches, "draw", draw)


@pytest.mark.parametrize(
    ("plant", "method", "where"),
    [(mixed_in_augmentation, "mtt", "in augment"), (mixed_in_an_index, "dm", "in steps.condensation_steps")],
)
def test_a_planted_mixture_of_devices_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    method: str,
    where: str,
    held: Held,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take, state = begun(held, config(method=method))
    waits(take, state)
    plant(monkeypatch)
    with pytest.raises(MixedDevicesError, match=where):
        waits(take, state)


def test_a_planted_read_is_found(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    take, state = matching(held, method="satm")

    def radial(rho: float, v: Tensor) -> Tensor:
        return rho / v.norm() * v if v.norm().item() > 0 else torch.zeros_like(v)

    monkeypatch.setattr(sharpness, "_radial", radial)
    assert waits(take, state).reads == ["sharpness.SAM.perturbation"]


def test_a_planted_wait_for_a_move_is_found(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    take, state = matching(held, method="mtt")
    monkeypatch.setattr(inner, "augment", lambda x, a: FAMILIES[a.family](x, a.u.to(x.device)))
    assert set(waits(take, state).uploads) == {"inner.training_view"}


THERE, HERE = torch.ones(3, 3, device=META), torch.ones(3, 3)
INDEX = torch.arange(3)
IMAGES = torch.ones(1, 3, 4, 4, device=META)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: THERE + HERE,
        lambda: THERE @ HERE,
        lambda: F.conv2d(IMAGES, torch.ones(2, 3, 3, 3)),
        lambda: THERE.gather(0, INDEX[None]),
        lambda: HERE[INDEX.to(META)],
        lambda: THERE[INDEX],  # CUDA takes it, moves it, and waits for that
        lambda: THERE.index_put((INDEX.to(META),), HERE),
        lambda: torch.stack([THERE.sum(), HERE.sum()]),
        lambda: HERE.sum().add_(THERE.sum()),
        lambda: torch.nn.functional.cross_entropy(THERE, INDEX),
    ],
)
def test_mixed_operations_are_refused(operation: Callable[[], Any]) -> None:
    with Device(), pytest.raises(MixedDevicesError):
        operation()


@pytest.mark.parametrize(
    "operation",
    [
        lambda: THERE.sum().item(),
        lambda: bool(THERE.sum() > 0),
        lambda: THERE.cpu(),
        lambda: THERE.sum(1).tolist(),
        lambda: THERE[THERE > 0],
        lambda: THERE.nonzero(),
        lambda: torch.equal(THERE, THERE),
        lambda: HERE.clone().copy_(THERE),
    ],
)
def test_reads_are_found(operation: Callable[[], Any]) -> None:
    with Device() as device:
        operation()
    assert device.reads == ["outside of the package"]


def test_what_a_gpu_takes_is_taken() -> None:
    one = torch.tensor(2.0)
    with Device() as device:
        for found in (THERE * one, torch.maximum(THERE, one), THERE + 1):
            assert found.device == META
        assert HERE.to(META, non_blocking=True).device == META
    assert (device.reads, device.uploads) == ([], [])
    with Device() as device:
        torch.where(THERE > 0, THERE, one)  # torch moves the number, and waits
        HERE.to(META)
    assert len(device.uploads) == 2


def test_a_draw_stays_real() -> None:
    """What is drawn on the CPU has values under the mode: draws decide shapes and which way a step goes."""
    with Device():
        assert Draw("flip", torch.rand(2, 3, generator=torch.Generator().manual_seed(0))).u.sum().item() > 0
