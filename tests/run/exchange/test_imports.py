"""`trajmatch import`: a peer's experts and sets are what they were, are marked as a peer's, and damage is refused.

The network of MTT's program is written here a second time, as its paper and its users describe it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.run.test_cli import refusal
from tests.small import command, succeed
from trajmatch.core.vector import Layout, functional
from trajmatch.data import images, synthetic
from trajmatch.data.formats import peer
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.data.whitening import fit
from trajmatch.run.diagnose.subject import Opener

Captured = pytest.CaptureFixture[str]
MEAN, STD = (0.31, 0.3, 0.29), (0.4, 0.35, 0.37)
PEER = [
    "--data", "digits", "--images.colour", "rgb", "--network.depth", "2", "--network.width", "8",
    "--images.normalise", "channel",
]  # fmt: skip
NORMAL = ["--mean", *map(str, MEAN), "--std", *map(str, STD)]


class Features(nn.Module):
    """MTT's ConvNet: its blocks under `features`, and then the classifier."""

    def __init__(self, c: int, classes: int, depth: int, width: int, side: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for k in range(depth):
            pad = 3 if c == 1 and k == 0 else 1
            blocks.append(nn.Conv2d(c if k == 0 else width, width, kernel_size=3, padding=pad))
            blocks += [nn.GroupNorm(width, width, affine=True), nn.ReLU(inplace=True), nn.AvgPool2d(2, stride=2)]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * (side // 2**depth) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.features(x)
        return self.classifier(out.view(out.size(0), -1))


def network(c: int = 3, depth: int = 2, side: int = 8) -> Features:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = Features(c, 10, depth, 8, side)
        for one in made.parameters():  # norms too, which start at 1 and 0
            nn.init.normal_(one, std=0.3)
    return made


def weights(net: nn.Module) -> list[Tensor]:
    return [one.detach().clone() for one in net.parameters()]


def seen(x: Tensor) -> Tensor:
    return (x.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture(scope="module")
def buffer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts of three epochs on the digits in colour, as MTT's program keeps them, and their test accuracies."""
    folder = tmp_path_factory.mktemp("peer")
    data = images.load("digits", colour="rgb", hold_out=False)
    x, test = seen(data.train.x), seen(data.test.x)
    everyone, accuracies = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(2):
            net = Features(3, 10, 2, 8, 8)
            sgd, epochs = torch.optim.SGD(net.parameters(), lr=0.05), [weights(net)]
            for _ in range(3):
                for chosen in torch.randperm(len(x)).split(64):
                    sgd.zero_grad()
                    F.cross_entropy(net(x[chosen]), data.train.y[chosen]).backward()
                    sgd.step()
                epochs.append(weights(net))
            everyone.append(epochs)
            accuracies.append(float((net(test).argmax(1) == data.test.y).double().mean()))
    torch.save(everyone[:1], folder / "replay_buffer_0.pt")
    torch.save(everyone[1:], folder / "replay_buffer_1.pt")
    (folder / "accuracies.json").write_text(json.dumps(accuracies))
    return folder


@pytest.fixture(scope="module")
def imported(buffer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "experts"
    succeed("import", buffer, *PEER, *NORMAL, "--out", folder)
    return folder


@pytest.mark.parametrize(("c", "depth", "side", "padded"), [(3, 2, 8, 8), (3, 3, 32, 32), (1, 3, 28, 32)])
def test_a_peers_weights_in_order_are_our_network(c: int, depth: int, side: int, padded: int) -> None:
    net = network(c, depth, padded)
    ours, _ = build(lambda: convnet((c, side, side), 10, depth, 8), 0)
    shapes = Layout.of(ours).shapes
    theta, other = peer.rows([weights(net), [2 * one for one in weights(net)]], shapes, "here")
    assert torch.equal(other, 2 * theta)
    x = torch.randn(5, c, side, side, generator=torch.Generator().manual_seed(0))
    wanted = net(x).detach()
    assert wanted.std() > 0.1
    torch.testing.assert_close(functional(ours)(theta, x), wanted, rtol=1e-5, atol=1e-5)


def test_experts_are_what_they_were_and_are_marked(buffer: Path, imported: Path) -> None:
    accuracies = json.loads((buffer / "accuracies.json").read_text())
    assert min(accuracies) > 0.3, "chance is 0.1"
    for k, accuracy in enumerate(accuracies):
        (wanted,) = torch.load(buffer / f"replay_buffer_{k}.pt", weights_only=True)
        found = Trajectory.open(imported / f"expert_{k:04}.safetensors")
        assert found.num_rows == 4
        for t, epoch in enumerate(wanted):
            assert torch.equal(found.row(t), torch.cat([one.reshape(-1) for one in epoch]))
        assert found.header["test_accuracy"] == pytest.approx([accuracy], abs=0.006), "rounding moves an image or two"
        assert f"replay_buffer_{k}.pt" in found.header["foreign"]


def test_a_run_takes_a_peers_experts_and_says_so(imported: Path, tmp_path: Path, capsys: Captured) -> None:
    folder, flags = tmp_path / "run", ["--images.colour", "rgb", "--images.no-hold-out"]
    words = [*command("run", *flags), "--experts", imported, "--steps", 2, "--out", folder]
    succeed(*words)
    assert "2 experts of another program" in capsys.readouterr().err
    summary = json.loads((folder / "summary.json").read_text())
    assert "another program" in summary["accuracy"]["whole"]["how"]
    found = synthetic.load(folder)
    assert found.info["experts"] == "2 experts of another program"
    assert found.space.mean.tolist() == pytest.approx(MEAN), "the peer's normalisation, not the one that is fitted here"
    succeed(*words)  # what is done is found done
    succeed("evaluate", folder)
    assert "another program" in (folder / "report.html").read_text(encoding="utf-8")
    opened = Opener().run(folder)
    assert opened.setup.material.space.digest() == found.space.digest(), "a diagnosis looks through it too"
    assert Opener().set(folder, imported).setup.material.space.digest() == found.space.digest()
    refused = [word for word in words if word != "--images.no-hold-out"]
    refused[-1] = tmp_path / "other"
    assert "--images.hold-out is False there and True here" in refusal(capsys, *refused)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", ["zca", "none"])
def test_a_set_comes_back_from_mtts_files(kind: str, soft: bool, tmp_path: Path, capsys: Captured) -> None:
    data = images.load("digits", hold_out=False)
    source = torch.Generator().manual_seed(1)
    Y = torch.randn(20, 10, generator=source).softmax(1) if soft else one_hot(class_labels(10, 2), 10)
    space = fit(kind, data.train.x[::3])  # another one than would be fitted here
    wanted = SyntheticSet(torch.randn(20, 1, 8, 8, generator=source), Y, 1 / 7, data.classes, space)
    synthetic.save(wanted, tmp_path / "mine.safetensors")
    succeed("export", tmp_path / "mine.safetensors", "--format", "mtt", "--out", tmp_path / "files")
    flags = ["--data", "digits", "--images.normalise", kind, "--network.depth", 2, "--network.width", 8]
    flags += ["--evaluation.epochs", 4, "--evaluation.networks", 2, "--evaluation.workers", 1]
    succeed("import", tmp_path / "files", *flags, "--out", tmp_path / "set")
    found = synthetic.load(tmp_path / "set")
    assert torch.equal(found.X, wanted.X)
    torch.testing.assert_close(found.Y, wanted.Y, rtol=1e-5, atol=1e-7)
    assert (found.eta, found.classes) == (wanted.eta, wanted.classes)
    assert found.space.digest() == wanted.space.digest()
    capsys.readouterr()
    succeed("evaluate", tmp_path / "set", "--evaluation.random-draws", 1)
    said = capsys.readouterr()
    assert "of another program" in said.err
    assert "last iterate" in said.out


def test_a_published_set_has_no_step_size_and_any_order(tmp_path: Path, capsys: Captured) -> None:
    labels = torch.arange(10).repeat(2)
    X = labels[:, None, None, None] + torch.zeros(20, 1, 8, 8)
    torch.save(X.requires_grad_(), tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    flags = ["--data", "digits", "--images.normalise", "none", "--network.depth", 2]
    succeed("import", tmp_path, *flags, "--out", tmp_path / "set")
    assert "0.01 is assumed" in capsys.readouterr().err
    found = synthetic.load(tmp_path / "set")
    assert found.labels.tolist() == class_labels(10, 2).tolist() == found.X[:, 0, 0, 0].long().tolist()
    succeed("import", tmp_path, *flags, "--step-size", 0.5, "--out", tmp_path / "other")
    assert synthetic.load(tmp_path / "other").eta == 0.5
    assert "is there already" in refusal(capsys, "import", tmp_path, *flags, "--out", tmp_path / "set")


class Code:
    """Something that unpickling would call."""

    def __reduce__(self) -> Any:
        return print, ("this ran",)


@pytest.fixture
def first(buffer: Path) -> list[list[list[Tensor]]]:
    """What the first file holds."""
    found: list[list[list[Tensor]]] = torch.load(buffer / "replay_buffer_0.pt", weights_only=True)
    return found


def saved(value: Any, path: Path) -> Path:
    torch.save(value, path)
    return path


def test_damaged_files_and_files_of_something_else(buffer: Path, tmp_path: Path, capsys: Captured) -> None:
    whole = (buffer / "replay_buffer_0.pt").read_bytes()
    for name, content in {
        "cut.pt": whole[: len(whole) // 2],
        "text.pt": b"no tensors",
        "empty.pt": b"",
        "x.pt": b"ascii",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: this is no file of tensors"):
            peer.read(tmp_path / name)
        assert "weights_only" not in refusal(capsys, "import", tmp_path / name, "--data", "digits")
    with pytest.raises(ValueError, match=r"could run code$"):  # and none of torch's words, which advise to let it
        peer.read(saved([[Code()]], tmp_path / "code.pt"))
    assert "this ran" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="no such file"):
        peer.read(tmp_path / "none.pt")
    for value, said in (
        ({"a": torch.ones(1)}, "a dictionary"),
        (torch.ones(2, 3, 4), r"shape \(2, 3, 4\)"),
        ([[]], "a list of 1 times a list of 0"),
        ([[[torch.ones(1)], [1]]], "a list of 1 times a list of 2 times a list of 1"),
    ):
        with pytest.raises(ValueError, match=said):
            peer.kind(value, Path("x.pt"))


def test_experts_that_are_no_trajectory_of_the_network(first: list[list[list[Tensor]]]) -> None:
    ((start, end, *_),) = first
    shapes = [tuple(one.shape) for one in start]
    assert len(peer.rows([start, end], shapes, "x")) == 2
    wide = [torch.zeros(16, 3, 3, 3), *[torch.zeros(16)] * 3]
    wide = [*wide, torch.zeros(16, 16, 3, 3), *[torch.zeros(16)] * 3, torch.zeros(10, 64), torch.zeros(10)]
    for expert, said in (
        ([start, start, start], "all its 3 snapshots are the same weights"),
        ([start], "one snapshot"),
        ([start, end[:-1]], "snapshot 1: it has 9 tensors, and the network has 10"),
        ([start, [*end[:-1], end[-1][:7]]], r"its tensor 9 has shape \(7,\)"),
        ([wide, wide], "give --network.depth 2 --network.width 16 --network.norm instance"),
    ):
        with pytest.raises(ValueError, match=said):
            peer.rows(expert, shapes, "x")


def test_labels_are_told_apart() -> None:
    path, logits = Path("l.pt"), torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 9.0]])
    for labels, wanted, said in (
        (torch.tensor([2, 0]), torch.eye(3)[[2, 0]], "classes"),
        (torch.tensor([2.0, 0.0]), torch.eye(3)[[2, 0]], "classes"),
        (logits, logits.softmax(1), "logits"),
        (logits.softmax(1), logits.softmax(1), "probabilities"),
    ):
        found, taken = peer.probabilities(labels, 3, path)
        torch.testing.assert_close(found, wanted)
        assert taken.startswith(said)
    for labels in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match=r"l.pt: its labels must be whole numbers from 0 to 2"):
            peer.probabilities(labels, 3, path)
    with pytest.raises(ValueError, match="of 7 classes, and --data has 3"):
        peer.probabilities(torch.ones(2, 7), 3, path)
    with pytest.raises(ValueError, match="must be above 0"):
        peer.step_size(torch.tensor(-0.1), path)


def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(
    buffer: Path, first: list[list[list[Tensor]]], tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"

    def refused(*words: object, normal: bool = True) -> str:
        said = refusal(capsys, "import", *words, *PEER, *(NORMAL if normal else []), "--out", out)
        assert not out.exists()
        assert not [one for one in tmp_path.iterdir() if one.name.startswith(".trajmatch")]
        return said

    source = torch.Generator().manual_seed(0)
    pictures = saved(torch.randn(20, 3, 8, 8, generator=source), tmp_path / "i.pt")
    labels = saved(torch.arange(20) % 10, tmp_path / "l.pt")
    assert "no replay_buffer" in refused(tmp_path)
    assert "no file was named" in refused()
    assert "one by one" in refused(buffer / "replay_buffer_0.pt", pictures)
    assert "no file of labels" in refused(pictures)
    assert f"as {pictures} does" in refused(pictures, pictures, labels)
    assert "--mean and --std must be 3 numbers" in refused(buffer, normal=False)
    broken = [[first[0][0], [one.clone() for one in first[0][1]]]]
    broken[0][1][0][0, 0, 0, 0] = torch.nan
    assert "not finite" in refused(buffer / "replay_buffer_0.pt", saved(broken, tmp_path / "b.pt"))
    assert "as many of each" in refused(pictures, saved(torch.zeros(20, dtype=torch.int64), tmp_path / "x.pt"))
    assert "20 images for 10 labels" in refused(pictures, saved(torch.arange(10), tmp_path / "x.pt"))
    small = torch.randn(20, 3, 9, 9, generator=source)
    assert "those of --data (3, 8, 8)" in refused(saved(small, tmp_path / "x.pt"), labels)
    assert "not finite" in refused(saved(torch.full((20, 3, 8, 8), torch.inf), tmp_path / "x.pt"), labels)


def test_our_experts_come_back_as_a_peers(experts: Path, tmp_path: Path) -> None:
    """In the network that the experts have, by the list of tensors that MTT's program would have made of them."""
    mine = Trajectory.open(experts / "expert_0000.safetensors")
    shapes = [tuple(shape) for shape in mine.header["shapes"]]
    layout = Layout(tuple(map(str, range(len(shapes)))), tuple(shapes))
    epochs = [list(layout.split(mine.row(t)).values()) for t in range(mine.num_rows)]
    torch.save([epochs], tmp_path / "replay_buffer_0.pt")
    space = fit("channel", images.load("digits").train.x)
    flags = ["--data", "digits", "--network.depth", 2, "--network.width", 8, "--images.normalise", "channel"]
    flags += ["--mean", *space.mean.tolist(), "--std", *space.scale.tolist()]
    succeed("import", tmp_path / "replay_buffer_0.pt", *flags, "--out", tmp_path / "again")
    again = Trajectory.open(tmp_path / "again" / "expert_0000.safetensors")
    assert all(torch.equal(again.row(t), mine.row(t)) for t in range(mine.num_rows))
    assert again.header["test_accuracy"] == pytest.approx(mine.header["test_accuracy"][-1:], abs=0.003)
