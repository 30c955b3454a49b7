"""Damaged tensor files: whatever byte is flipped, cut, zeroed or added, it is refused, or what is read is the same."""

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.oracles import random
from trajmatch.data import checksums, synthetic
from trajmatch.data.checksums import HEADER, identity
from trajmatch.data.files import read_header
from trajmatch.data.snapshots import Snapshot, read_snapshot, save_snapshot
from trajmatch.data.synthetic import SyntheticSet, class_labels, one_hot
from trajmatch.data.tensors import read_tensors, save_tensors
from trajmatch.data.trajectories import Trajectory, save_trajectory
from trajmatch.data.whitening import InputSpace, fit
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.stages.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

SETTINGS = {"data": "digits", "outer.labels": "hard"}
# What a reader finds, in a form that can be compared.
Found = dict[str, Any]


def a_set(kind: str = "zca") -> SyntheticSet:
    pixels = torch.rand(40, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    space = fit(kind, pixels)
    info = {"ipc": 2, "method": "satm", "config": {"steps": 3}}
    return SyntheticSet(space.forward(pixels[:4]), one_hot(class_labels(2, 2), 2), 0.0123, ("a", "b"), space, info)


def a_state() -> OuterState:
    made = a_set()
    return new_state(made.X, made.Y, 0.01)._replace(steps=torch.tensor(7))


def rows() -> list[Tensor]:
    return [random(30, seed=k).float() for k in range(3)]


def write_set(path: Path) -> None:
    synthetic.save(a_set(), path)


def read_set(path: Path) -> Found:
    found = synthetic.load(path)
    about = {"eta": found.eta, "classes": found.classes, "info": dict(found.info), "space": found.space.digest()}
    return {"X": found.X, "Y": found.Y, **about}


def write_expert(path: Path, storage: str = "float32") -> None:
    about = {"index": 1, "settings": {"data": "x"}, "epochs": 2, "test_accuracy": [0.1, 0.5], "seconds": 1.5}
    save_trajectory(path, rows(), about, storage)


def read_expert(path: Path) -> Found:
    found = Trajectory.open(path)
    return {"header": dict(found.header), **{str(t): found.row(t) for t in range(found.num_rows)}}


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, Checkpoint(a_state(), a_state(), a_state(), 12.5, SETTINGS))


def read_checkpoint(path: Path) -> Found:
    found = load_checkpoint(path, SETTINGS, a_state())
    states = {f"{name}.{k}": v for name in ("state", "anchor") for k, v in getattr(found, name)._asdict().items()}
    return {"seconds": found.seconds, **states}


def write_snapshot(path: Path) -> None:
    made = a_set()
    save_snapshot(path, Snapshot(5, made.X, made.Y, torch.tensor(0.02)))


def read_back_snapshot(path: Path) -> Found:
    return read_snapshot(path, 5, (1, 3, 3), 2)._asdict()


FILES: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Found]]] = {
    "set": ("distilled.safetensors", write_set, read_set),
    "expert": ("expert_0001.safetensors", write_expert, read_expert),
    "fp16": ("expert_0001.safetensors", lambda path: write_expert(path, "fp16-deltas"), read_expert),
    "checkpoint": ("checkpoint.safetensors", write_checkpoint, read_checkpoint),
    "snapshot": ("step_000005.safetensors", write_snapshot, read_back_snapshot),
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    return bool(found == wanted)


def assert_refused_or_harmless(path: Path, damaged: bytes, read: Callable[[Path], Found], wanted: Found) -> bool:
    """Whether it was refused; where it was not, all that is read is as before."""
    path.write_bytes(damaged)
    try:
        found = read(path)
    except ValueError as error:
        said = str(error)
        assert str(path) in said, said
        assert "\n" not in said, said
        return True
    assert same(found, wanted)
    return False


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("bit", [0, 5, 7])
def test_a_flipped_bit_anywhere_is_refused_or_harmless(kind: str, bit: int, tmp_path: Path) -> None:
    name, write, read = FILES[kind]
    path = tmp_path / name
    write(path)
    whole, wanted = path.read_bytes(), read(path)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    padding = len(whole[8:header]) - len(whole[8:header].rstrip(b" "))
    passed = []
    for k in range(bit, len(whole), max(3, len(whole) // 500)):
        flipped = whole[:k] + bytes([whole[k] ^ (1 << bit)]) + whole[k + 1 :]
        if not assert_refused_or_harmless(path, flipped, read, wanted):
            passed.append(k)
    assert all(header - padding <= k < header for k in passed), "only the padding of the header may change"


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_cut_emptied_zeroed_or_added_to_is_refused(kind: str, tmp_path: Path) -> None:
    name, write, read = FILES[kind]
    path = tmp_path / name
    write(path)
    whole, wanted = path.read_bytes(), read(path)
    half = len(whole) // 2
    damages = {
        "empty": b"",
        "one byte": whole[:1],
        "a length": whole[:8],
        "half": whole[:half],
        "all but one": whole[:-1],
        "zeroed": bytes(len(whole)),
        "half zeroed": whole[:half] + bytes(len(whole) - half),
        "a page zeroed": whole[:-64] + bytes(64),
        "added": whole + b"\0",
        "twice": whole + whole,
        "text": b"hello",
        "ones": b"\xff" * len(whole),
        "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "shifted": b"\0" + whole,
    }
    for words, damaged in damages.items():
        assert assert_refused_or_harmless(path, damaged, read, wanted), words


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_an_older_version_is_read_and_that_is_said_once(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, write, read = FILES[kind]
    path = tmp_path / name
    write(path)
    wanted, header = read(path), checksums.raw_header(path)["__metadata__"][HEADER]
    save_file({k: v.clone() for k, v in read_tensors(path).items()}, path, metadata={HEADER: header})
    assert not caplog.messages
    for _ in range(2):
        assert same(read(path), wanted)
    assert len(caplog.messages) == 1
    assert f"{path}: written without a checksum" in caplog.messages[0]


def test_two_sets_in_different_spaces_are_different_sets(tmp_path: Path) -> None:
    """The same numbers, seen as other pixels."""
    made = a_set("channel")
    other = replace(
        made, space=InputSpace("channel", made.space.mean + 0.1, made.space.scale, made.space.basis, (1, 3, 3))
    )
    names = []
    for k, one in enumerate((made, other, made)):
        synthetic.save(one, tmp_path / str(k))
        names.append(identity(tmp_path / str(k)))
    assert names[0] == names[2] != names[1]


BAD_SETS: dict[str, tuple[Callable[[SyntheticSet], SyntheticSet], str]] = {
    "nan pixel": (lambda s: replace(s, X=s.X.index_fill(0, torch.tensor([1]), torch.nan)), "9 pixel values"),
    "infinite pixel": (lambda s: replace(s, X=s.X / 0), "pixel values are not finite"),
    "nan label": (lambda s: replace(s, Y=s.Y * torch.nan), "no probabilities"),
    "negative label": (lambda s: replace(s, Y=torch.tensor([[1.5, -0.5]] * 4)), "no probabilities"),
    "labels of 2": (lambda s: replace(s, Y=2 * s.Y), "no probabilities"),
    "labels of 0": (lambda s: replace(s, Y=0 * s.Y), "no probabilities"),
    "zero rate": (lambda s: replace(s, eta=0.0), "step size is 0 and must be above 0"),
    "negative rate": (lambda s: replace(s, eta=-0.1), "step size is -0.1"),
    "nan rate": (lambda s: replace(s, eta=float("nan")), "step size is nan"),
    "infinite rate": (lambda s: replace(s, eta=float("inf")), "step size is inf"),
    "fewer labels": (lambda s: replace(s, Y=s.Y[:3]), "labels have shape (3, 2) for 4 images"),
    "more classes": (lambda s: replace(s, classes=("a", "b", "c")), "of 3 classes"),
    "other size": (lambda s: replace(s, X=s.X[..., :2]), "its images are (1, 3, 2) and its input space (1, 3, 3)"),
    "no images": (lambda s: replace(s, X=s.X[:0], Y=s.Y[:0]), "images have shape"),
    "whole numbers": (lambda s: replace(s, X=s.X.long()), "torch.int64"),
    "flat basis": (lambda s: replace(s, space=replace(s.space, basis=s.space.basis * 0)), "'basis' of"),
    "skewed basis": (lambda s: replace(s, space=replace(s.space, basis=s.space.basis + 0.1)), "is not orthogonal"),
    "nan basis": (lambda s: replace(s, space=replace(s.space, basis=s.space.basis * torch.nan)), "is not finite"),
    "no variance": (lambda s: replace(s, space=replace(s.space, scale=s.space.scale * 0)), "'scale' of"),
    "small basis": (lambda s: replace(s, space=replace(s.space, basis=s.space.basis[:4])), "'basis' of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SETS)
def test_a_set_that_cannot_be_used_is_neither_written_nor_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, says = BAD_SETS[name]
    path, bad = tmp_path / "distilled.safetensors", change(a_set())
    if name != "small basis":  # which cannot be made of statistics
        with pytest.raises(ValueError, match=r"distilled\.safetensors: the set is not written") as caught:
            synthetic.save(bad, path)
        assert says in str(caught.value)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as careless:
        careless.setattr(synthetic, "wrong_set", lambda _: None)
        synthetic.save(bad, path)
    with pytest.raises(ValueError, match=r"distilled\.safetensors: this set cannot be used") as caught:
        synthetic.load(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


HEADERS = ["kind", "classes", "space", "info"]


@pytest.mark.parametrize("key", HEADERS)
@pytest.mark.parametrize("value", [None, [], "x", 3, {}])
def test_a_set_with_another_header_is_one_sentence(key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_set(path)
    header, tensors = read_header(path), {k: v.clone() for k, v in read_tensors(path).items()}
    for changed in ({**header, key: value}, {k: v for k, v in header.items() if k != key}):
        save_tensors(path, tensors, changed)
        if key == "info" and changed.get("info") == {}:
            assert synthetic.load(path).info == {}
            continue
        with pytest.raises(ValueError, match=f"{path}: .*set"):
            synthetic.load(path)


def test_a_set_that_lacks_a_tensor_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_set(path)
    header, tensors = read_header(path), {k: v.clone() for k, v in read_tensors(path).items()}
    for name in tensors:
        save_tensors(path, {k: v for k, v in tensors.items() if k != name}, header)
        with pytest.raises(ValueError, match=name.removeprefix("space.")):
            synthetic.load(path)


EXPERT: dict[str, Any] = {
    "index": -1, "settings": [], "rows": 5, "parameters": 7, "storage": "float16", "epochs": "2", "test_accuracy": [],
    "seconds": float("1e308") * -1, "kind": "set", "shapes": [[30, 2]],
}  # fmt: skip


@pytest.mark.parametrize("key", EXPERT)
def test_an_expert_with_another_header_is_one_sentence(key: str, tmp_path: Path) -> None:
    path = tmp_path / "e"
    write_expert(path)
    header, tensors = read_header(path), {k: v.clone() for k, v in read_tensors(path).items()}
    values: list[Any] = [EXPERT[key], None, "x", [[]]]
    for value in values:
        save_tensors(path, tensors, {**header, key: value}, by_row=("theta",))
        with pytest.raises(ValueError, match=f"{path}: "):
            read_expert(path)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("storage", ["float32", "fp16-deltas"])
def test_an_expert_with_weights_that_are_not_finite_is_neither_written_nor_read(
    value: float, storage: str, tmp_path: Path
) -> None:
    path, bad = tmp_path / "e", rows()
    bad[2][3] = value
    with pytest.raises(ValueError, match="not finite"):
        save_trajectory(path, bad, {}, storage)
    assert not path.exists()
    header = {"kind": "expert", "rows": 3, "parameters": 30, "storage": "float32"}
    save_tensors(path, {"theta": torch.stack(bad)}, header, by_row=("theta",))
    found = Trajectory.open(path)
    assert torch.equal(found.row(1), bad[1])
    with pytest.raises(ValueError, match="snapshot 2 has weights that are not finite"):
        found.row(2)


def test_huge_finite_weights_are_no_damage(tmp_path: Path) -> None:
    """Their sum overflows."""
    huge = [torch.full((30,), 3e38), torch.full((30,), 2e38)]
    save_trajectory(tmp_path / "e", huge, {})
    assert torch.equal(Trajectory.open(tmp_path / "e").row(0), huge[0])


BAD_STATES: dict[str, tuple[Callable[[OuterState], OuterState], str]] = {
    "nan image": (lambda s: s._replace(X=s.X * torch.nan), "X is not finite"),
    "infinite label": (lambda s: s._replace(Y=s.Y + torch.inf), "Y is not finite"),
    "nan average": (lambda s: s._replace(average=s.average * torch.nan), "average is not finite"),
    "nan rate": (lambda s: s._replace(eta=s.eta * torch.nan), "eta is not finite"),
    "negative rate": (lambda s: s._replace(eta=-s.eta), "the step size is -0.01"),
    "infinite moments": (lambda s: s._replace(image_moments=s.image_moments + torch.inf), "image_moments is not"),
    "negative step": (lambda s: s._replace(steps=torch.tensor(-1)), "no single numbers"),
    "two rates": (lambda s: s._replace(eta=torch.ones(2)), "no single numbers"),
    "another average": (lambda s: s._replace(average=s.average[:2]), "average has another shape"),
    "fewer labels": (lambda s: s._replace(Y=s.Y[:2]), "Y has shape"),
}


@pytest.mark.parametrize("name", BAD_STATES)
@pytest.mark.parametrize("where", ["state", "anchor"])
def test_a_checkpoint_that_cannot_be_gone_on_from_is_neither_written_nor_read(
    name: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajmatch.run.stages import checkpoint as module

    change, says = BAD_STATES[name]
    path, wrong = tmp_path / "checkpoint.safetensors", module.wrong_state
    good = Checkpoint(a_state(), a_state(), a_state(), 1.0, SETTINGS)
    bad = replace(good, **{where: change(a_state())})  # type: ignore[arg-type]
    save_checkpoint(path, good)
    with pytest.raises(ValueError, match=f"not written, because .* in its {where}") as caught:
        save_checkpoint(path, bad)
    assert says in str(caught.value)
    assert load_checkpoint(path, SETTINGS).step == 7
    monkeypatch.setattr(module, "wrong_state", lambda _: None)
    save_checkpoint(path, bad)
    monkeypatch.setattr(module, "wrong_state", wrong)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: this checkpoint cannot be used") as caught:
        load_checkpoint(path, SETTINGS)
    assert says in str(caught.value)


def test_a_checkpoint_of_other_shapes_or_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(a_state(), a_state(), a_state(), 1.0, SETTINGS))
    other = new_state(torch.zeros(4, 1, 5, 5), a_set().Y, 0.01)
    with pytest.raises(ValueError, match=r"X has shape \(4, 1, 3, 3\) where \(4, 1, 5, 5\) must be"):
        load_checkpoint(path, SETTINGS, other)
    logits = a_state()._replace(Y=torch.full((4, 2), -3.0))
    save_checkpoint(path, Checkpoint(logits, logits, logits, 1.0, SETTINGS))
    with pytest.raises(ValueError, match="its labels are no probabilities"):
        load_checkpoint(path, SETTINGS)
    learned = {**SETTINGS, "outer.labels": "learned"}
    save_checkpoint(path, Checkpoint(logits, logits, logits, 1.0, learned))
    assert torch.equal(load_checkpoint(path, learned).state.Y, logits.Y)


def test_a_checkpoint_that_lacks_something_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path)
    header, tensors = read_header(path), {k: v.clone() for k, v in read_tensors(path).items()}
    for key in ("settings", "seconds"):
        wrong: tuple[Any, ...] = (None, [], "x")
        for value in wrong:
            save_tensors(path, tensors, {**header, key: value})
            with pytest.raises(ValueError, match=rf"checkpoint\.safetensors: .*\({key}\)"):
                load_checkpoint(path, SETTINGS)
    for name in ("state.X", "anchor.steps"):
        save_tensors(path, {k: v for k, v in tensors.items() if k != name}, header)
        with pytest.raises(ValueError, match=f"this checkpoint has no {name}"):
            load_checkpoint(path, SETTINGS)


def test_a_snapshot_that_cannot_be_used_is_neither_written_nor_read(tmp_path: Path) -> None:
    path, made = tmp_path / "step_000005.safetensors", a_set()
    with pytest.raises(ValueError, match="the snapshot is not written, because its step size is -1"):
        save_snapshot(path, Snapshot(5, made.X, made.Y, torch.tensor(-1.0)))
    assert not path.exists()
    write_snapshot(path)
    for arguments, says in (
        ((6,), "not the snapshot of step 6"),
        ((5, (1, 4, 4)), "of the data"),
        ((5, None, 3), "3 cl"),
    ):
        with pytest.raises(ValueError, match=says):
            read_snapshot(path, *arguments)
    tensors = {k: v.clone() for k, v in read_tensors(path).items()}
    for name in tensors:
        save_tensors(path, {k: v for k, v in tensors.items() if k != name}, {"step": 5})
        with pytest.raises(ValueError, match=f"this snapshot has no {name}"):
            read_snapshot(path, 5)
    save_tensors(path, {**tensors, "images": made.X * torch.nan}, {"step": 5})
    with pytest.raises(ValueError, match="not finite"):
        read_snapshot(path, 5)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """An expert of the published network: 51 snapshots of 320 010 weights, 65 MB."""
    path = tmp_path / "expert_0000.safetensors"
    save_trajectory(path, [torch.full((320_010,), 0.1 + t) for t in range(51)], {})
    yield path
    path.unlink()


def test_rows_are_read_alone_and_a_check_costs_little(large: Path) -> None:
    """Damage in rows that are not read is not looked for; two rows of a large file take milliseconds."""
    whole = large.stat().st_size
    with open(large, "r+b") as file:
        file.seek(whole - 1000)  # in the last row
        file.write(b"\xff")
    found = Trajectory.open(large)
    best = min(timed(lambda: found.segment(0, 3, 2)) for _ in range(5))
    assert best < 0.05  # 1 to 2 ms on an idle machine; all of it would take 15 or more
    with pytest.raises(ValueError, match=r"expert_0000\.safetensors: this file is damaged \(snapshot 50"):
        found.row(50)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
