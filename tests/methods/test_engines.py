"""Engines compute the same derivatives; precisions differ as they say; choices and refusals are in words."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.loss import cross_entropy
from trajmatch.core.mixed import MIXED
from trajmatch.core.student import Student, plain
from trajmatch.core.vector import functional
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.networks.kernels import compiled_kernels
from trajmatch.methods import engines
from trajmatch.methods.engines import EAGER, PRECISIONS, Compiled, Engine, check, choose, couples, forward, student

CPU, CUDA, MPS = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))
SHAPE, F32 = (2, 8, 8), torch.float32
HOLIDAY = "the C++ compiler is on holiday"
TOO_FEW = "too few inner steps to be worth compiling"
NOTHING = "the network has no block of convolution, instance norm and ReLU to fuse"
EXACT = ["reverse-over-reverse", "forward-over-reverse"]


@pytest.fixture
def kernels() -> Any:
    """The fused kernels, where this machine can build them."""
    if isinstance(found := compiled_kernels(), str):
        pytest.skip(found)
    return found


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """torch.compile that returns what it is given at once; its calls."""
    calls: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(function) or function)
    return calls


def small(norm: str = "instance", pooling: str = "avg") -> nn.Module:
    return build(lambda: convnet(SHAPE, 3, depth=2, width=8, norm=norm, pooling=pooling), 3)[0]


def batch_normalised() -> nn.Module:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return build(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), 3)[0]


def arguments(network: nn.Module, n: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta, images, soft labels and an adjoint, in the network's precision."""
    theta = torch.cat([p.flatten() for p in network.parameters()])
    values = random(n, *SHAPE, seed=1), random(n, 3, seed=2).softmax(1), random(len(theta), seed=3)
    z, y, a = (t.to(theta.dtype) for t in values)
    return theta, z, y, a


def derivatives(made: Student, values: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """All that a student computes, and what `unrolled` makes of its loss."""
    found = [made.loss(*values[:3]), made.gradient(*values[:3]), *made.mixed(*values), *made.inputs_alone(*values)]
    theta = values[0].clone().requires_grad_()
    (u,) = torch.autograd.grad(made.loss(theta, *values[1:3]), theta, create_graph=True)
    (along,) = torch.autograd.grad(u @ values[3], theta)
    names = ("loss", "u", "dh/dtheta", "dh/dz", "dh/dy", "dh/dz alone", "dh/dy alone", "u with a graph", "unrolled")
    return dict(zip(names, [*found, u.detach(), along], strict=True))


def assert_agree(network: nn.Module, engine: Engine, tolerance: float, n: int = 7) -> None:
    """All that a student of this engine computes is what torch's operations compute."""
    values = arguments(network, n)
    found, wanted = derivatives(student(network, engine), values), derivatives(student(network, EAGER), values)
    for name, w in wanted.items():
        assert (found[name].shape, found[name].dtype) == (w.shape, w.dtype), name
        assert not found[name].requires_grad, name
        assert relative_error(found[name], w) < tolerance, name
    outputs = forward(network, engine)(*values[:2])
    assert relative_error(outputs, functional(network)(*values[:2])) < tolerance


@pytest.mark.parametrize("mixed", MIXED)
def test_the_eager_student_is_the_plain_one(mixed: str) -> None:
    network, values = small(), arguments(small())
    found = derivatives(student(network, Engine(mixed=mixed)), values)
    wanted = derivatives(plain(cross_entropy(functional(network)), MIXED[mixed]), values)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-4), (F64, 1e-10)])
@pytest.mark.usefixtures("kernels")
def test_fused_derivatives_are_eager_s(dtype: torch.dtype, tolerance: float, pooling: str, n: int, mixed: str) -> None:
    assert_agree(small(pooling=pooling).to(dtype), Engine("fused", mixed=mixed), tolerance, n)


@pytest.mark.usefixtures("kernels")
def test_a_convolution_that_no_instance_norm_follows_keeps_its_bias() -> None:
    network = build(lambda: nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), *small().children()), 3)[0]
    assert_agree(network.double(), Engine("fused"), 1e-10)


def test_the_fused_student_uses_its_kernels(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("forward", "gradient", "curvature"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *args, name=name, real=real: called.append(name) or real(*args))
    network, values = small(pooling="max"), arguments(small())  # no chain, which would be one call

    def kernels_of(derivative: Callable[..., object], count: int) -> set[str]:
        called.clear()
        derivative(*values[:count])
        return set(called)

    made = student(network, Engine("fused"))
    assert kernels_of(made.loss, 3) == kernels_of(forward(network, Engine("fused")), 2) == {"forward"}
    assert kernels_of(made.gradient, 3) == {"forward", "gradient"}
    assert kernels_of(made.mixed, 4) == kernels_of(made.inputs_alone, 4) == {"forward", "gradient", "curvature"}
    other = student(network, Engine("fused", mixed="forward-over-reverse"))  # which the kernels do not have
    assert kernels_of(other.gradient, 3) == {"forward", "gradient"}
    assert kernels_of(other.mixed, 4) == set()
    assert kernels_of(student(network, EAGER).gradient, 3) == set()


@pytest.mark.parametrize("name", ["eager", "fused", "compiled"])
@pytest.mark.usefixtures("kernels", "traced")
def test_micro_batches_of_every_engine_add_up(name: str) -> None:
    assert_agree(small().double(), Engine(name, micro_batch=3), 1e-10)


@pytest.mark.parametrize("name", ["eager", "fused"])
@pytest.mark.parametrize("mixed", EXACT)
@pytest.mark.usefixtures("kernels")
def test_what_each_precision_rounds(mixed: str, name: str) -> None:
    network, values = small(), arguments(small())
    made = {p: derivatives(student(network, Engine(name, p, mixed)), values) for p in PRECISIONS}
    assert {t.dtype for found in made.values() for t in found.values()} == {F32}
    for quantity, wanted in made["float32"].items():
        assert torch.equal(made["tf32"][quantity], wanted), quantity  # a setting of CUDA's
        rounded = {p: relative_error(made[p][quantity], wanted) for p in ("bf16-sweep", "bf16")}
        if quantity.startswith("dh"):  # the sweep's
            assert 1e-4 < rounded["bf16-sweep"] < 0.3, quantity
            assert torch.equal(made["bf16"][quantity], made["bf16-sweep"][quantity]), quantity
        else:
            assert torch.equal(made["bf16-sweep"][quantity], wanted), quantity
            assert 1e-6 < rounded["bf16"] < 0.3, quantity


@pytest.mark.parametrize(
    ("norm", "here", "mixed"),
    [("instance", True, EXACT[0]), ("instance", True, EXACT[1]), ("instance", False, EXACT[0]),
     ("group", True, EXACT[0])],
)  # fmt: skip
def test_traced_derivatives_are_eager_s(
    norm: str, here: bool, mixed: str, traced: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the compiled engine but the compiler; on a GPU, where the kernels are not, it replaces convolutions."""
    if not here:
        monkeypatch.setattr(engines, "compiled_kernels", lambda: HOLIDAY)
    assert_agree(small(norm).double(), Engine("compiled", mixed=mixed), 1e-10)
    assert len(traced) == 3  # gradient, mixed, inputs alone


def test_each_combination_of_shapes_and_dtypes_is_traced_once(traced: list[object]) -> None:
    runs = []

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        runs.append((x.shape, y.shape, x.dtype, y.dtype))
        return x * y.sum(), y

    made = Compiled(function)
    kinds = [(3, 3, F64, F64), (4, 3, F64, F64), (3, 4, F64, F64), (3, 3, F32, F64), (3, 3, F64, F32)]
    for seed in range(3):
        for n, m, dtype, other in kinds:
            x, y = random(n, seed=seed).to(dtype), random(m, seed=seed + 9).to(other)
            found = made(x.clone().requires_grad_(), y)
            assert torch.equal(found[0], x * y.sum())  # of these values, not of the first ones
            assert not found[0].requires_grad
    assert len(runs) == len(traced) == len(made.made) == len(kinds)


def test_a_compiled_student_traces_once_for_all_steps(traced: list[object]) -> None:
    network, (theta, z, y, a) = small(), arguments(small())
    made = student(network, Engine("compiled", micro_batch=3))  # of 3, 3 and 1 images
    for step in range(3):
        made.gradient(theta + step, z, y)
        made.mixed(theta + step, z, y, a)
    assert len(traced) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # in torch itself
def test_compiled_derivatives_are_eager_s() -> None:
    if (why := engines.no_compiler(CPU)) is not None:
        pytest.skip(why)
    assert_agree(small(), Engine("compiled"), 1e-4)


@pytest.fixture
def worth_100(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 inner steps are worth compiling, on a machine with kernels and a compiler."""
    monkeypatch.setattr(engines, "WORTH_COMPILING", 100)
    monkeypatch.setattr(engines, "no_compiler", lambda device: None)
    monkeypatch.setattr(engines, "compiled_kernels", object)


@pytest.mark.parametrize(
    ("device", "norm", "steps", "chosen"),
    [(CPU, "instance", 100, "compiled"), (CPU, "instance", 99, "fused"), (CPU, "group", 101, "compiled"),
     (CPU, "group", 99, "eager"), (CUDA, "instance", 100, "compiled"), (CUDA, "instance", 0, "eager")],
)  # fmt: skip
@pytest.mark.usefixtures("worth_100")
def test_the_choice_where_there_is_a_compiler(device: torch.device, norm: str, steps: int, chosen: str) -> None:
    name, why = choose(small(norm), device, steps)
    assert name == chosen
    too_few = NOTHING if norm == "group" else TOO_FEW
    assert why == (too_few if steps < 100 else f"{steps} inner steps are worth half a minute of compiling")


@pytest.mark.usefixtures("kernels")
def test_a_chain_s_float32_is_never_compiled() -> None:
    why = "one call takes a ConvNet's derivatives, faster than compiled code"
    for steps in (0, 10**9):
        assert choose(small(), CPU, steps) == ("fused", why)
    assert choose(small(), CPU, 0, "bf16") == ("fused", TOO_FEW)
    assert choose(small(pooling="max"), CPU, 0) == ("fused", TOO_FEW)


@pytest.mark.parametrize("steps", [0, 99, 100, 10**9])
@pytest.mark.usefixtures("worth_100")
def test_the_choice_where_there_is_no_compiler(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "no_compiler", lambda device: f"none for {device.type}")
    for device in (CUDA, MPS):
        assert choose(small(), device, steps) == ("eager", f"none for {device.type}")
    assert choose(small(), CPU, steps) == ("fused", TOO_FEW)
    monkeypatch.setattr(engines, "compiled_kernels", lambda: HOLIDAY)
    assert choose(small(), CPU, steps) == ("eager", HOLIDAY)


def test_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "compiled_kernels", object)
    assert engines.no_compiler(CPU) is None
    monkeypatch.setattr(engines, "compiled_kernels", lambda: HOLIDAY)
    assert engines.no_compiler(CPU) == HOLIDAY
    assert engines.no_compiler(MPS) == "torch's compiler is not used on mps"
    for found in (True, False):
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda found=found: found)
        why = engines.no_compiler(CUDA)
        assert why == (None if found else "torch finds no Triton, which its compiler needs on a GPU")


def assert_refused(says: str, engine: Engine, network: nn.Module, device: torch.device = CPU) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        check(engine, network, device, SHAPE)


@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
def test_compiled_without_a_compiler_is_refused(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "no_compiler", lambda device: f"{device.type} has none")
    says = f"--engine is compiled, but {device.type} has none; eager always works"
    assert_refused(says, Engine("compiled"), small(), device)


def test_fused_where_nothing_can_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "compiled_kernels", object)
    check(Engine("fused"), small(), CPU, SHAPE)
    for norm in ("group", "layer", "none"):
        assert_refused(f"--engine is fused, but {NOTHING}; eager always works", Engine("fused"), small(norm))
    for device in (CUDA, MPS):
        says = f"--engine is fused, but its kernels are for the CPU and not for {device.type}; eager always works"
        assert_refused(says, Engine("fused"), small(), device)
    monkeypatch.setattr(engines, "compiled_kernels", lambda: HOLIDAY)
    assert_refused(f"--engine is fused, but {HOLIDAY}; eager always works", Engine("fused"), small())


def test_tf32_is_cuda_s_alone() -> None:
    check(Engine(precision="tf32"), small(), CUDA, SHAPE)
    for device in (CPU, MPS):
        says = f"--precision is tf32, which CUDA has and {device.type} does not; bf16-sweep works everywhere"
        assert_refused(says, Engine(precision="tf32"), small(), device)
        check(Engine(precision="bf16"), small(), device, SHAPE)


def test_micro_batches_of_a_batch_norm_network_are_refused() -> None:
    check(Engine(micro_batch=3), small(), CPU, SHAPE)
    check(EAGER, batch_normalised(), CPU, SHAPE)
    says = (
        "--micro-batch is 3, but this network's output for one image depends on the others of its mini-batch (batch "
        "norm does that), so that parts would not add up to the whole; leave it out"
    )
    assert_refused(says, Engine(micro_batch=3), batch_normalised())


class LessItsNeighbour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - 0.1 * x.roll(1, 0)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_which_networks_couple_the_images_of_a_mini_batch(dtype: torch.dtype) -> None:
    assert couples(batch_normalised().to(dtype), SHAPE)
    assert couples(nn.Sequential(small(), LessItsNeighbour()).to(dtype), SHAPE)
    for norm in ("instance", "group", "layer", "none"):
        for pooling in ("avg", "max", "none"):
            assert not couples(small(norm, pooling).to(dtype), SHAPE)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "bf16-sweep"])
def test_a_gpu_without_a_precision_is_told_of(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    for capability, able in (((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        check(Engine(), small(), CUDA, SHAPE)
        if able:
            check(Engine(precision=precision), small(), CUDA, SHAPE)
            continue
        with pytest.raises(ValueError, match=f"^--precision is {precision}, which Tesla V100 does not have"):
            check(Engine(precision=precision), small(), CUDA, SHAPE)


def test_torch_s_compiler_needs_python_s_headers(monkeypatch: pytest.MonkeyPatch, kernels: Any) -> None:
    assert engines.no_compiler(CPU) is None
    monkeypatch.setattr(engines.sysconfig, "get_path", lambda name: "/nowhere")
    says = "torch's compiler needs Python's headers, and there is no /nowhere/Python.h"
    assert engines.no_compiler(CPU) == says
    with pytest.raises(ValueError, match=f"^--engine is compiled, but {says}; eager always works$"):
        check(Engine("compiled"), small(), CPU, SHAPE)
