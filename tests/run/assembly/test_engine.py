"""What a run may hold in memory, and how the outer loop computes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from trajmatch.data.networks.convnet import build, convnet, drawn
from trajmatch.data.networks.kernels import compiled_kernels
from trajmatch.machine.memory import peak_over_base
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.run.assembly import engine as compute
from trajmatch.run.assembly.budget import (
    COPIES,
    PER_OUTPUT,
    PROCESS,
    held_bytes,
    image_bytes,
    micro_batch,
    parse_memory,
    step_bytes,
)
from trajmatch.run.assembly.engine import Compute, convolution_flops, outer_compute, training_engine
from trajmatch.settings.baseline import Baseline
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Matching, Outer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (3, 16, 16)
SYNTHETIC = (20, *SHAPE)


def made(factory: Callable[[], nn.Module]) -> nn.Module:
    return build(factory, 0)[0]


def network(width: int = 8, side: int = 16, norm: str = "instance") -> nn.Module:
    return made(lambda: convnet((3, side, side), 10, depth=2, width=width, norm=norm))


def decide(config: Config, net: nn.Module | None = None, device: torch.device = CPU, data: float = 0.0) -> Compute:
    return outer_compute(resolve(config), net or network(), device, SYNTHETIC, data)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("4GB", 4e9), ("500 MB", 500e6), ("2GiB", 2 * 2**30), ("1.5GB", 1.5e9), ("0.25 TiB", 2**38), ("3TB", 3e12),
        ("7KB", 7e3), ("7KiB", 7 * 1024), ("16MiB", 2**24), ("123B", 123), ("  4 gb ", 4e9), ("2gib", 2**31),
        ("1Mb", 1e6),
    ],
)  # fmt: skip
def test_amounts_of_memory(text: str, wanted: float) -> None:
    assert parse_memory(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "4", "GB", "4G", "4 GBs", "-4GB", "0GB", "0.0MB", "1e3MB", "1,5GB", "1.GB", ".5GB", "4 PB", "nan GB", "4GB 5",
     "half of it", "5iB", "99999999999GB"],
)  # fmt: skip
def test_words_that_are_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--memory is '.*' and must be a number and a unit, such as 4GB or 800MB$"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("room", "n", "parts"),
    [
        (100, 100, None), (1000, 100, None),  # all fit
        (99, 100, 50), (50, 100, 50),  # two halves
        (49, 100, 34), (34, 100, 34), (33, 100, 25),  # 34, 34 and 32; four quarters
        (6, 7, 4), (3, 7, 3), (2, 7, 2), (1, 7, 1), (1, 2, 1), (1, 1, None),
    ],
)  # fmt: skip
def test_the_micro_batch_is_the_largest_of_equal_parts_that_fits(room: int, n: int, parts: int | None) -> None:
    def step(images: int) -> float:
        return 10.0 * images

    assert micro_batch(1e6 + 10.0 * room, 1e6, step, n) == parts
    assert micro_batch(1e6 + 10.0 * room + 9.0, 1e6, step, n) == parts  # a part of an image is none


@pytest.mark.parametrize("n", range(1, 40))
def test_micro_batches_fit_and_none_is_much_smaller_than_the_others(n: int) -> None:
    for room in range(1, n):
        size = micro_batch(float(room), 0.0, float, n)
        assert size is not None
        assert 1 <= size <= room
        count = -(-n // size)
        assert count == -(-n // room)  # no more parts than there have to be
        assert n - (count - 1) * size >= 1
        assert size - n / count < 1  # the smallest size for so many


def test_memory_that_not_even_one_image_fits_in() -> None:
    says = r"^--memory is 400 MB, and the smallest step needs 450 MB: raise it, or try --matching\.keep-every or a"
    for limit in (400e6, 400.2e6):
        with pytest.raises(ValueError, match=says):
            micro_batch(limit, 350e6, lambda images: 100e6 * images, 10)
    with pytest.raises(ValueError, match="the smallest step needs 450 MB"):
        micro_batch(300e6, 350e6, lambda images: 100e6 * images, 10)  # less than what is held before any step


@pytest.mark.parametrize("engine", ["eager", "fused", "compiled"])
def test_a_step_s_memory_grows_with_the_area_and_the_width(engine: str) -> None:
    base = image_bytes(network(), SHAPE, engine)
    larger, wider = image_bytes(network(side=32), (3, 32, 32), engine), image_bytes(network(16), SHAPE, engine)
    assert base > 0
    assert larger / base == pytest.approx(4, rel=0.01)  # but for the 10 outputs
    assert wider / base == pytest.approx(2, rel=0.01)
    assert image_bytes(network(), SHAPE, "fused") < image_bytes(network(), SHAPE, "eager")


def test_a_step_s_memory_counts_the_outputs_of_every_layer_and_leaves_the_network_as_it_was() -> None:
    flat = 5 * 14 * 14
    inner = nn.ReLU, nn.Flatten
    layers = made(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sequential(*(f() for f in inner)), nn.Linear(flat, 2)))
    numbers = 3 * flat + 2
    for engine, factor in PER_OUTPUT.items():
        assert image_bytes(layers, SHAPE, engine) == pytest.approx(4 * factor * numbers)
    assert not any(module._forward_hooks for module in layers.modules())


@pytest.mark.parametrize("width", [8, 40])
def test_one_call_s_memory_is_a_count_of_what_it_holds(width: int) -> None:
    if isinstance(found := compiled_kernels(), str):
        pytest.skip(found)
    net, shape = network(width, side=32), (3, 32, 32)
    step = step_bytes(net, shape, Engine("fused"))
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    made, a = engines.student(net, Engine("fused")), torch.ones_like(theta)

    def peak(n: int) -> float:
        z, y = torch.zeros(n, *shape), torch.eye(10)[torch.arange(n) % 10]
        made.mixed(theta, z[:1], y[:1], a)
        return 1e6 * peak_over_base(lambda: made.mixed(theta, z, y, a), CPU) - 4 * (z.numel() + len(theta))

    copies = 4 * COPIES * 3 * 32 * 32
    for n in (40, 400):
        assert peak(n) == pytest.approx(step(n) - n * copies, rel=0.15, abs=1e6)
    assert step(4000) - step(2000) == pytest.approx(2000 * copies, rel=0.2)  # a few images at a time go through it
    rounding = [Engine("fused", precision) for precision in ("bf16", "bf16-sweep")]
    for other in (*rounding, Engine("fused", mixed="forward-over-reverse")):
        assert step_bytes(net, shape, other)(7) == 7 * image_bytes(net, shape, "fused")


def held(matching: Matching, parameters: int = 1000, pixels: int = 0, device: torch.device = CPU) -> float:
    return held_bytes(resolve(Config(method="mtt", matching=matching)), device, parameters, pixels, 1e9)


def test_what_is_held_counts_iterates_images_data_and_the_process() -> None:
    base = held(Matching(inner_steps=40), 0)
    assert base == PROCESS["cpu"] + 1e9
    assert held(Matching(inner_steps=40), 0, device=CUDA) == PROCESS["cuda"]  # the data is on the other side
    assert held(Matching(inner_steps=40)) - base >= 4 * 40 * 1000
    assert held(Matching(inner_steps=80)) - held(Matching(inner_steps=40)) == pytest.approx(4 * 40 * 1000)
    assert held(Matching(inner_steps=40), 2000) - base == pytest.approx(2 * (held(Matching(inner_steps=40)) - base))
    assert held(Matching(inner_steps=40), 0, 500) - base >= 4 * 500 * 2
    truncated = Matching(inner_steps=40, differentiated_steps=10)
    assert held(Matching(inner_steps=40)) - held(truncated) == pytest.approx(4 * 30 * 1000)


def test_what_is_held_shrinks_with_fewer_iterates_kept_down_to_the_root() -> None:
    every = {k: held(Matching(inner_steps=36, keep_every=k)) for k in (1, 2, 3, 4, 6, 9, 18, 36)}
    shrinking = [every[k] for k in (1, 2, 3, 4, 6)]
    assert shrinking == sorted(set(shrinking), reverse=True)
    assert min(every, key=every.__getitem__) == 6  # 36 / k kept, and k between two of them
    assert every[1] - every[6] == pytest.approx(4 * 1000 * (36 + 1 - 6 - 6))


def test_adam_inside_is_counted_with_three_numbers_for_each_weight_of_the_window() -> None:
    def through(method: str, keep: int = 1, **baseline: Any) -> float:
        matching = Matching(inner_steps=200, differentiated_steps=40, keep_every=keep)
        config = Config(method=method, matching=matching, baseline=Baseline(**baseline))  # type: ignore[arg-type]
        return (held_bytes(resolve(config), CPU, 1000, 0, 1e9) - PROCESS["cpu"] - 1e9) / 4000

    sgd, adam = through("rat-bptt"), through("rat-bptt", inner="adam")
    assert 40 < sgd < 60
    assert 3 * 40 < adam <= 3 * sgd
    # Where the gradients choose the window, it is known only after all steps.
    automatic = through("at-bptt")
    assert automatic - adam == pytest.approx(3 * 160)
    assert through("at-bptt", inner="sgd") - sgd == pytest.approx(160)
    assert automatic - through("at-bptt", keep=20) == pytest.approx(3 * (200 + 1 - 10 - 20))


@pytest.mark.parametrize("estimator", ["tesla", "random-window"])
def test_estimators_that_may_need_every_iterate_are_counted_with_all(estimator: str) -> None:
    swept = held(Matching(inner_steps=40))
    iota = 40 if estimator == "tesla" else 10
    found = held(Matching(inner_steps=40, estimator=estimator, differentiated_steps=iota))  # type: ignore[arg-type]
    assert found == swept


def test_the_micro_batch_is_taken_as_given_unless_all_images_fit() -> None:
    assert decide(Config()).engine.micro_batch is None
    for given, taken in ((1, 1), (7, 7), (19, 19), (20, None), (1000, None)):
        assert decide(Config(micro_batch=given)).engine.micro_batch == taken
    batch = Matching(batch=8)
    for given, taken in ((7, 7), (8, None), (19, None)):  # of the mini-batch, not of the whole set
        assert decide(Config(micro_batch=given, matching=batch)).engine.micro_batch == taken


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("batch", [None, 12])
def test_the_micro_batch_is_derived_from_the_memory(
    batch: int | None, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "no_compiler", lambda device: None)
    config = resolve(Config(engine=engine, matching=Matching(batch=batch)))  # type: ignore[arg-type]
    net, n, data = network(), batch or 20, 123e6
    num_parameters = sum(p.numel() for p in net.parameters())
    rest = held_bytes(config, CPU, num_parameters, 20 * 3 * 16 * 16, data)
    each = image_bytes(net, SHAPE, engine)

    def taken(images: float) -> int | None:
        limit = f"{(rest + images * each) / 1e3 + 0.1:.1f}KB"
        return decide(replace(config, memory=limit), net, data=data).engine.micro_batch

    assert taken(n + 1) is taken(n) is None
    assert taken(n - 0.5) == n // 2
    assert taken(1) == 1
    with pytest.raises(ValueError, match="--memory is"):
        taken(0.9)
    both = replace(config, memory=f"{rest / 1e6 + 1e-6:.6f}MB", micro_batch=3)
    assert decide(both, net, data=data).engine.micro_batch == 3  # what is asked for wins


def test_memory_and_its_words_reach_the_user() -> None:
    with pytest.raises(ValueError, match=r"^--memory is '4 apples'"):
        decide(Config(memory="4 apples"))
    with pytest.raises(ValueError, match=r"^--memory is 5 MB, and the smallest step needs 3\d\d MB"):
        decide(Config(memory="5MB"))
    assert decide(Config(memory="4GB")).engine.micro_batch is None


def test_the_unrolled_estimator_in_parts_is_refused() -> None:
    unrolled = Config(method="mtt", matching=Matching(estimator="unrolled"))
    for changed in ({"micro_batch": 3}, {"memory": "1GB"}, {"engine": "compiled"}, {"precision": "bf16-sweep"}):
        says = rf"^--{next(iter(changed)).replace('_', '-')} is .*estimator unrolled can't have, .* same hypergradient$"
        with pytest.raises(ValueError, match=says):
            decide(replace(unrolled, **changed))  # type: ignore[arg-type]
    assert decide(replace(unrolled, steps=10**9)).engine.name != "compiled"
    assert decide(replace(unrolled, micro_batch=3, matching=Matching())).engine.micro_batch == 3


def test_what_an_engine_can_not_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--engine is fused, but .*; eager always works$"):
        decide(Config(engine="fused"), network(norm="none"))
    with pytest.raises(ValueError, match=r"^--precision is tf32, which CUDA has and cpu does not"):
        decide(Config(precision="tf32"))


@pytest.mark.parametrize("precision", ["bf16", "bf16-sweep"])
def test_bfloat16_without_its_instructions_is_refused(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_bfloat16", lambda: True)
    monkeypatch.setattr(compute, "has_matrix_units", lambda: True)
    assert decide(Config(precision=precision)).engine.precision == precision
    monkeypatch.setattr(compute, "has_bfloat16", lambda: False)
    with pytest.raises(ValueError, match=rf"^--precision is {precision}, for which this processor has no instructions"):
        decide(Config(precision=precision))
    assert decide(Config()).engine.precision == "float32"
    assert decide(Config(precision=precision), device=CUDA).engine.precision == precision


@pytest.mark.parametrize("precision", ["bf16", "bf16-sweep"])
def test_bfloat16_is_refused_where_one_call_in_float32_is_faster(
    precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(found := compiled_kernels(), str):
        pytest.skip(found)
    monkeypatch.setattr(compute, "has_bfloat16", lambda: True)
    monkeypatch.setattr(compute, "has_matrix_units", lambda: False)
    config = Config(precision=precision)
    with pytest.raises(ValueError, match=rf"^--precision is {precision}, which is slower than .* choose float32"):
        decide(config)
    named = decide(replace(config, engine="fused"))
    assert (named.engine, named.why) == (Engine("fused", precision), "as asked; float32 would take less time here")
    forward, group = Matching(mixed="forward-over-reverse"), network(norm="group")
    work = convolution_flops(group, SYNTHETIC)
    monkeypatch.setattr(compute, "WORTH_ROUNDING", work)
    for other in (decide(config, group), decide(replace(config, matching=forward))):
        assert other.engine.precision == precision  # none of whose derivatives are taken by one call
    assert decide(replace(config, engine="eager"), group).why == "as asked"
    for small in (replace(config, micro_batch=19), replace(config, matching=Matching(batch=19))):
        with pytest.raises(ValueError, match="slower than float32 for this network and mini-batch"):
            decide(small, group)
    assert decide(config, device=CUDA).engine.precision == precision
    assert decide(Config()).engine.precision == "float32"
    if precision == "bf16":
        unrolled = replace(config, method="mtt", matching=Matching(estimator="unrolled"))
        assert decide(unrolled).engine.precision == precision
    monkeypatch.setattr(compute, "has_matrix_units", lambda: True)
    assert decide(config).engine.precision == precision


def test_the_engine_is_chosen_by_the_inner_steps_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_matrix_units", lambda: True)
    seen = []

    def chosen(net: nn.Module, device: torch.device, inner_steps: int, precision: str) -> tuple[str, str]:
        seen.append((device, inner_steps, precision))
        return "eager", "because"

    monkeypatch.setattr(engines, "choose", chosen)
    found = decide(Config(steps=30, matching=Matching(inner_steps=7), precision="bf16"))
    assert (found.engine, found.why) == (Engine("eager", "bf16"), "because")
    decide(Config(steps=30, method="contra", matching=Matching(inner_steps=7, segments=4)))
    assert seen == [(CPU, 210, "bf16"), (CPU, 840, "float32")]
    mixed = decide(Config(engine="eager", matching=Matching(mixed="forward-over-reverse")))
    assert (mixed.engine, mixed.why) == (Engine(mixed="forward-over-reverse"), "as asked")
    assert len(seen) == 2


def test_threads_are_chosen_by_the_work_of_a_micro_batch_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cores", lambda: 5)
    work = convolution_flops(network(), SYNTHETIC)
    monkeypatch.setattr(compute, "WORTH_A_THREAD", work)
    assert decide(Config()).threads == 5
    assert decide(Config(matching=Matching(batch=19))).threads == 1
    assert decide(Config(micro_batch=19)).threads == 1
    monkeypatch.setattr(compute, "WORTH_A_THREAD", work + 1)
    assert decide(Config()).threads == 1
    for threads in (1, 3):
        for worth in (work + 1, work):
            monkeypatch.setattr(compute, "WORTH_A_THREAD", worth)
            assert decide(Config(outer=Outer(threads=threads))).threads == threads


def test_experts_and_scores_are_trained_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "compiled_kernels", object)
    config = Config(precision="bf16", micro_batch=2, memory="4GB", matching=Matching(mixed="forward-over-reverse"))
    for name in ("eager", "fused", "compiled"):
        assert training_engine(replace(config, engine=name), network(), CPU) == Engine(name)
    long = replace(config, steps=10**6)
    assert training_engine(long, network(), CPU) == Engine("fused")  # never compiled unless asked
    assert training_engine(long, network(norm="none"), CPU) == Engine("eager")
    assert training_engine(long, network(), CUDA) == Engine("eager")


@pytest.mark.parametrize(
    ("k", "cin", "cout", "h", "w", "n"), [(3, 3, 5, 8, 6, 2), (1, 2, 7, 4, 4, 1), (5, 4, 4, 9, 9, 3)]
)
def test_convolution_flops_by_hand(k: int, cin: int, cout: int, h: int, w: int, n: int) -> None:
    by_hand, padding = 2 * k * k * cin * cout * h * w * n, k // 2
    convolution = made(lambda: nn.Sequential(nn.Conv2d(cin, cout, k, padding=padding), nn.ReLU()))
    assert convolution_flops(convolution, (n, cin, h, w)) == by_hand
    halved = made(lambda: nn.Sequential(nn.Conv2d(cin, cout, k, padding=padding, stride=2)))
    outputs = -(-h // 2) * -(-w // 2)
    assert convolution_flops(halved, (n, cin, h, w)) == 2 * k * k * cin * cout * outputs * n
    linear = nn.Sequential(convolution, nn.Flatten(), made(lambda: nn.Linear(cout * h * w, 10)))
    assert convolution_flops(linear, (n, cin, h, w)) == by_hand + 2 * n * cout * h * w * 10


def test_flops_are_counted_without_holding_all_images() -> None:
    images = (10**9, *SHAPE)  # 3 TB of them
    assert convolution_flops(network(), images) == 5e8 * convolution_flops(network(), (2, *SHAPE))


@pytest.mark.parametrize(
    ("segments", "batch", "engine", "expected"),
    [
        (4, None, "compiled", True),
        (3, None, "compiled", False),
        (4, None, "eager", False),
        (1, None, "compiled", False),
    ],
)
def test_very_small_segments_are_compiled_together(
    segments: int, batch: int | None, engine: Any, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "no_compiler", lambda device: None)
    config = Config(method="mtt", engine=engine, matching=Matching(segments=segments, batch=batch))
    assert decide(config).together is expected
    assert not decide(replace(config, matching=replace(config.matching, together="no"))).together
    monkeypatch.setattr(compute, "WORTH_STACKING", 10.0)
    assert not decide(config).together


class Descending(nn.Module):
    """A network that moves its images along a derivative of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            images = x.flatten(1).detach().requires_grad_()
            (u,) = torch.autograd.grad(self.inner(images).square().sum(), images, create_graph=True)
        return self.inner(images - 0.1 * u)


def test_a_network_that_differentiates_inside_is_not_counted() -> None:
    assert convolution_flops(drawn(Descending, 0), (6, 1, 2, 2)) == 0
