"""What can't work is refused before an expert is trained, and leaves no folder."""

import json
from pathlib import Path

import pytest

from tests.run.test_cli import refusal
from tests.small import FLAGS, command, succeed
from trajmatch.data.networks import kernels
from trajmatch.data.networks.kernels import compiled_kernels
from trajmatch.methods import engines
from trajmatch.run.stages import experts as expert_stage

Captured = pytest.CaptureFixture[str]
MINE = """
import sys
import torch
import torch.nn.functional as F
from torch import nn

class Attending(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.three, self.head = nn.Linear(8, 24), nn.Linear(64, num_classes)
        self.places = nn.Parameter(0.1 * torch.randn(1, 8, 8))

    def forward(self, x):
        q, k, v = self.three(x[:, 0] + self.places).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v).flatten(1))

class Always(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(F.dropout(x.flatten(1), 0.1, training=True))

class Rounded(Always):
    def forward(self, x):
        return self.head((4 * x.flatten(1)).round())

class Kernel(Attending):
    def forward(self, x):
        q, k, v = self.three(x[:, 0] + self.places)[:, None].chunk(3, -1)
        seen = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        return self.head(seen.flatten(1))

def attending(shape, num_classes): return Attending(num_classes)
def always(shape, num_classes): return Always(num_classes)
def rounded(shape, num_classes): return Rounded(num_classes)
def kernel(shape, num_classes): return Kernel(num_classes)
def leaves(shape, num_classes): sys.exit(3)
def empty(shape, num_classes): return nn.Flatten()
def nothing(shape, num_classes): return None
def coupled(shape, num_classes):
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
def frozen(shape, num_classes):
    layers = nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes)
    network = nn.Sequential(*layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        nn.init.normal_(network[0].weight)
        nn.init.zeros_(network[0].bias)
    network[0].requires_grad_(False)
    return network
value = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's networks, in which the command is given."""
    (tmp_path / "networks_of_a_test.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No expert can be trained."""

    def trained(*arguments: object, **named: object) -> None:
        raise AssertionError("an expert was to be trained")

    monkeypatch.setattr(expert_stage, "run_over_ranks", trained)


@pytest.mark.parametrize(
    "network",
    [pytest.param("vit", marks=pytest.mark.slow), "networks_of_a_test:attending", "networks_of_a_test:frozen"],
)
def test_a_run_with_attention_or_frozen_parameters_from_images_to_report(network: str, mine: Path) -> None:
    words = ("--network.name", network, "--experts", 1, "--steps", 2, "--expert.epochs", 1, "--matching.last-epoch", 1)
    few = ("--images.classes", "0", "1", "--evaluation.networks", 1, "--evaluation.random-draws", 0)
    few += ("--evaluation.validation-networks", 0, "--evaluation.epochs", 1, "--matching.inner-steps", 2)
    succeed(*command("run", *words, *few, "--out", mine / "r"))
    found = json.loads((mine / "r" / "summary.json").read_text())
    assert found["accuracy"]["distilled"]["n"] == 1
    before, after = (json.loads(line) for line in (mine / "r" / "metrics.jsonl").read_text().splitlines())
    assert 0 < before["loss"] != after["loss"] > 0


REFUSED = [
    (["--memory", "4XB"], "--memory is '4XB' and must be a number and a unit, such as 4GB or 800MB"),
    (["--memory", "0GB"], "--memory is '0GB' and must be"),
    (["--memory=-1GB"], "--memory is '-1GB' and must be"),
    (["--memory", "nan"], "--memory is 'nan' and must be"),
    (["--memory", "1e400GB"], "--memory is '1e400GB' and must be"),
    (["--memory", ""], "--memory is empty and must have a value"),
    (["--memory", "5MB"], "--memory is 5 MB, and the smallest step needs"),
    (["--precision", "tf32", "--device", "cpu"], "--precision is tf32, which CUDA has and cpu does not"),
    (["--engine", "fused", "--network.norm", "none"], "--engine is fused, but the network has no block of convolution"),
    (["--engine", "fused", "--network.name", "mlp"], "--engine is fused, but the network has no block of convolution"),
    (["--matching.together", "yes", "--micro-batch", "2"], "--matching.together is yes, and --micro-batch is 2"),
    (["--matching.estimator", "unrolled", "--method", "mtt", "--micro-batch", "2"], "--micro-batch is 2, which"),
    (["--expert.save-every", "100000"], "--expert.save-every is 100000 and must be at most "),
    (
        ["--expert.save-every", "30", "--matching.last-epoch", "90"],
        "--expert.save-every is 30, which gives snapshots 0 to ",
    ),
    (["--network.norm", "batch"], "keeps running statistics"),
    *(
        (["--network.name", f"networks_of_a_test:{name}"], f"--network.name is networks_of_a_test:{name}, {says}")
        for name, says in (
            ("always", "which draws random numbers in evaluation mode too, such as dropout that is always on"),
            ("rounded", "whose derivative in the images is zero"),
            ("kernel", "which has no second derivative, and this method takes it: "),
            ("leaves", "which can't take images of 1 x 8 x 8: it ends the program (SystemExit: 3)"),
            ("empty", "which has no parameters and nothing to train"),
            ("nothing", "which makes something of type NoneType and must make a torch.nn.Module"),
            ("coupled", "which gives outputs for one image that depend on the others of its mini-batch"),
            ("value", "which is of type int and must be a function of the images' shape"),
            ("no_such", "which can't be imported: module 'networks_of_a_test' has no attribute 'no_such'"),
        )
    ),
]


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("words", "says"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_can_not_work_leaves_no_folder(words: list[str], says: str, mine: Path, capsys: Captured) -> None:
    told = refusal(capsys, *command("run", "--experts", 1, *words, "--out", mine / "r" / "s"))
    assert says in told
    assert not (mine / "r").exists()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("verb", ["run", "distill", "experts", "continual", "plan"])
@pytest.mark.parametrize("engine", ["fused", "compiled"])
@pytest.mark.parametrize("compiler", ["nonsense-of-a-compiler -x", '"', "true"])
def test_an_engine_without_its_compiler(
    compiler: str, engine: str, verb: str, mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("TRAJMATCH_CACHE", str(mine / "cache"))
    monkeypatch.setattr(engines, "compiled_kernels", compiled_kernels.__wrapped__)
    words = [verb, *FLAGS, "--engine", engine, "--experts", "1", "--out", f"{mine}/r"]
    told = refusal(capsys, *words, *(["--orders", "1"] if verb == "continual" else []))
    assert f"--engine is {engine}, but " in told
    assert "eager always works" in told
    assert not (mine / "r").exists()


@pytest.mark.usefixtures("untrained")
def test_no_compiler_on_the_path(mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    monkeypatch.setattr(engines, "compiled_kernels", compiled_kernels.__wrapped__)
    told = refusal(capsys, *command("run", "--engine", "fused", "--experts", 1, "--out", mine / "r"))
    assert "--engine is fused, but no C++ compiler was found (g++, clang++ or the one named in CXX)" in told
    assert not (mine / "r").exists()


def test_experts_are_held_to_what_experts_need(mine: Path) -> None:
    words = ("--experts", 1, "--expert.workers", 1, "--precision", "tf32", "--memory", "5MB", "--device", "cpu")
    succeed(*command("experts", *words, "--network.name", "networks_of_a_test:kernel", "--out", mine / "experts"))
    assert (mine / "experts" / "expert_0000.safetensors").exists()


@pytest.mark.usefixtures("untrained")
def test_snapshots_that_would_never_be_taken(mine: Path, capsys: Captured) -> None:
    told = refusal(capsys, *command("experts", "--experts", 1, "--expert.save-every", "500", "--out", mine / "e"))
    assert "--expert.save-every is 500 and must be at most " in told
    assert "the steps of a training of 3 epochs: there would be no snapshots" in told
    assert not (mine / "e").exists()


def test_named_experts_that_are_too_short(mine: Path, capsys: Captured) -> None:
    many = ("--expert.save-every", "10", "--expert.epochs", "1")
    succeed(*command("experts", "--experts", 1, *many, "--out", mine / "e"))
    words = command("distill", "--experts", mine / "e", *many, "--matching.last-epoch", "90", "--out", mine / "r")
    assert "--matching.last-epoch with --matching.expert-epochs needs 90" in refusal(capsys, *words)
    assert not (mine / "r").exists()


@pytest.mark.usefixtures("untrained")
def test_methods_without_second_derivatives_need_none(mine: Path, capsys: Captured) -> None:
    few = ("--steps", 1, "--evaluation.epochs", 1, "--baseline.batch", 4)
    name = ("--network.name", "networks_of_a_test:kernel")
    succeed(*command("distill", "--method", "dm", *name, *few, "--out", mine / "dm"))
    succeed(*command("distill", "--method", "random", *name, "--out", mine / "random"))
    told = refusal(capsys, *command("distill", "--method", "dc", *name, *few, "--out", mine / "dc"))
    assert "which has no second derivative, and this method takes it" in told
    assert not (mine / "dc").exists()


def test_a_finished_distillation_is_no_longer_held_to_its_engine(
    experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command("distill", "--experts", experts, "--steps", 1, "--engine", "fused", "--out", tmp_path / "r")
    monkeypatch.setattr(engines, "_not_fused", lambda network, device: None)
    succeed(*words)
    monkeypatch.setattr(engines, "_not_fused", lambda network, device: "its compiler is gone")
    succeed(*words)


def test_a_last_mini_batch_of_one_image_that_a_network_can_not_be_trained_on(mine: Path, capsys: Captured) -> None:
    """Batch norm of a single pixel needs two images: refused before any network is trained."""
    (mine / "ends_of_a_test.py").write_text(
        "from torch import nn\n"
        "def pooled(shape, num_classes):\n"
        "    norm = nn.BatchNorm2d(4)\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 8), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    succeed(*command("distill", "--method", "random", "--out", mine / "r"))
    few = ("--evaluation.networks", "1", "--evaluation.epochs", "1", "--evaluation.workers", "1")
    words = ("evaluate", mine / "r", *few, "--networks", "ends_of_a_test:pooled", "--evaluation.batch")
    assert "pooled, which can't take images of 1 x 8 x 8: Expected more than 1" in refusal(capsys, *words, "3")
    succeed(*words, "5", "--evaluation.rates", "0.01")
