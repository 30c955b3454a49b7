"""Every record of a real run, damaged in every key: a verb succeeds, or says one sentence that names the file."""

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.small import FLAGS, succeed
from trajmatch.data.kept import BELONGS, DIGEST, VERSION, sealed
from trajmatch.run.cli import main

Captured = pytest.CaptureFixture[str]
# A network of one block and eight-pixel images: all of it takes seconds.
TINY = [*FLAGS, "--network.depth", "1", "--evaluation.epochs", "1", "--experts", "1", "--steps", "4", "--ipc", "1"]
RECORDS = ("summary.json", "evaluation.json", "experts.json", "transfer.json", "ranking.json", "sizes.json",
           "search.json", "networks.json", "diagnoses/nearest.json")  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything that the verbs add to it."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    succeed("run", *TINY, "--out", folder)
    rates = ("--evaluation.rates", "0.01", "--evaluation.networks", "1")
    succeed("evaluate", folder, "--networks", "mlp", *rates)
    succeed("evaluate", folder, "--ranking", *rates)
    succeed("evaluate", folder, "--sizes", "1", "--evaluation.networks", "1")
    space = ("--depths", "1", "2", "--widths", "4", "--norms", "none", "--poolings", "avg")
    succeed("search", folder, *space, "--proxy-networks", "1", "--real-epochs", "1")
    succeed("diagnose", "nearest", "--run", folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def verbs(folder: Path) -> dict[str, list[Any]]:
    """The verbs that read what lies in a run folder."""
    return {
        "report": ["report", folder],
        "compare": ["compare", folder, "--out", folder.parent / "compared"],
        "resume": ["run", *TINY, "--out", folder, "--resume"],
        "evaluate": ["evaluate", folder],
        "transfer": ["evaluate", folder, "--networks", "mlp", "--evaluation.rates", "0.01"],
        "sizes": ["evaluate", folder, "--sizes", "1"],
        "nearest": ["diagnose", "nearest", "--run", folder],
    }


def assert_told(capsys: Captured, words: list[Any], name: str) -> int:
    """Exit code 0, or 2 and one sentence with the file's name; any other exception is passed on and fails the test."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as error:  # of the command line's own checks
        code = int(error.code or 0)
    err = capsys.readouterr().err
    assert code in (0, 2), err
    if code == 2:
        said = [line for line in err.splitlines() if line.startswith("trajmatch: ")]
        assert len(said) == 1, err
        assert Path(name).name in said[0], err
    assert "Traceback" not in err
    return code


def places(value: Any, depth: int = 3) -> Iterator[tuple[str, ...]]:
    """Where each key of a record is, down to some depth; of a list its first."""
    if depth and isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            yield from ((key, *rest) for rest in places(inner, depth - 1))


def changed(value: Any, place: tuple[str, ...], change: Callable[[dict[str, Any], str], None]) -> Any:
    found = json.loads(json.dumps(value))
    inner = found
    for key in place[:-1]:
        inner = inner[key]
    change(inner, place[-1])
    return found


def put(new: Any) -> Callable[[dict[str, Any], str], None]:
    return lambda record, key: record.__setitem__(key, new)


CHANGES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "deleted": lambda record, key: record.pop(key),
    "null": put(None),
    "list": put([]),
    "record": put({}),
    "words": put("x"),
    "number": put(-7.5),
}
READERS = {
    "summary.json": ("report", "compare"),
    "evaluation.json": ("resume",),
    "experts.json": ("report", "resume"),
    "transfer.json": ("compare", "transfer"),
    "ranking.json": ("compare",),
    "sizes.json": ("sizes",),
    "networks.json": ("evaluate",),
    "diagnoses/nearest.json": ("report",),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_record_of_an_older_version_with_any_key_damaged(name: str, folder: Path, capsys: Captured) -> None:
    """Without a digest, so that each key meets the checks of what it must be. The changes take turns."""
    whole = json.loads((folder / name).read_text())
    plain = {key: value for key, value in whole.items() if key not in (VERSION, DIGEST, BELONGS)}
    for place, change in zip(places(plain), cycle(CHANGES.values()), strict=False):
        for verb in READERS[name]:
            (folder / name).write_text(json.dumps(changed(plain, place, change)))
            assert_told(capsys, verbs(folder)[verb], name)


CONTENTS = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"3",
    b'"x"',
    b'{"a": 0.5',
    b"[" * 100_000,
    b'{"a": NaN}',
    b"\x00",
    b"\xff\xfe{}",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_record_that_is_something_else(name: str, folder: Path, capsys: Captured) -> None:
    for content in CONTENTS:
        for verb in READERS[name]:
            (folder / name).write_bytes(content)
            code = assert_told(capsys, verbs(folder)[verb], name)
            # An empty record holds no networks and no sizes, and that is no damage.
            assert code == 2 or content in (b"{}", b'{"a": NaN}'), (content, verb)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_changed_digit_reaches_nothing(name: str, folder: Path, capsys: Captured) -> None:
    whole = (folder / name).read_text()
    digits = [k for k, letter in enumerate(whole) if letter.isdigit()]
    for k in digits[:: max(1, len(digits) // 6)]:
        other = whole[:k] + ("1" if whole[k] != "1" else "2") + whole[k + 1 :]
        if json.loads(other) == json.loads(whole):
            continue  # a digit that no double has
        (folder / name).write_text(other)
        for verb in READERS[name]:
            assert assert_told(capsys, verbs(folder)[verb], name) == 2, (k, verb)
        assert (folder / name).read_text() == other, "what is refused is left as it is"


def test_a_record_of_another_set_is_refused_or_made_again(folder: Path, capsys: Captured) -> None:
    for name in ("summary.json", "evaluation.json", "transfer.json", "ranking.json", "sizes.json"):
        whole = json.loads((folder / name).read_text())
        assert whole[BELONGS].keys() == {"set", "data"}
        (folder / name).write_text(json.dumps(sealed({**whole, BELONGS: {**whole[BELONGS], "set": "0" * 32}})))
        for verb in READERS[name]:
            if verb == "compare" or verb == "report":
                assert assert_told(capsys, verbs(folder)[verb], name) == 2
        (folder / name).write_text(json.dumps(whole))
    path = folder / "diagnoses" / "nearest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), BELONGS: {"set": "0" * 32}})))
    assert assert_told(capsys, verbs(folder)["report"], "") == 0
    assert "nearest.json is of another set than the one here, and left out" in (folder / "report.html").read_text()
    whole = json.loads((folder / "evaluation.json").read_text())
    stale = sealed({**whole, BELONGS: {"set": "0" * 32}, "seconds": 999.0})
    (folder / "evaluation.json").write_text(json.dumps(stale))
    assert main([str(word) for word in verbs(folder)["resume"]]) == 0
    assert "evaluation.json belongs to another set" in capsys.readouterr().err
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["seconds"] != 999.0
    assert again[BELONGS] == whole[BELONGS]
    assert again["accuracy"] == whole["accuracy"]


def test_records_of_an_older_version_are_read_and_that_is_said(
    folder: Path, capsys: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    for name in RECORDS:
        whole = json.loads((folder / name).read_text())
        young = [key for key in whole if key in (VERSION, DIGEST, BELONGS) or "-right-" in key]
        old = {key.partition("-")[0]: value for key, value in whole.items() if key not in young}
        (folder / name).write_text(json.dumps(old))
    for verb, words in verbs(folder).items():
        assert assert_told(capsys, words, "") == 0, verb
    told = [message for message in caplog.messages if "without a digest" in message]
    assert len(told) == len(set(told)), "once each"
    for name in set(RECORDS) - {"search.json"}:
        assert any(str(folder / name) in message for message in told), name


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 3])
def test_a_configuration_with_any_key_damaged(first: int, folder: Path, capsys: Captured) -> None:
    whole, turns = yaml.safe_load((folder / "config.yaml").read_text()), islice(cycle(CHANGES.values()), first, None)
    for place, change in zip(places(whole, 2), turns, strict=False):
        (folder / "config.yaml").write_text(yaml.safe_dump(changed(whole, place, change)))
        for verb in ("report", "compare", "resume", "nearest"):
            assert_told(capsys, verbs(folder)[verb], "")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"3", b"\xff\xfe", b"a: [", b"a: !!python/object:os.x {}", b"\0"]
)
def test_a_configuration_that_is_something_else(content: bytes, folder: Path, capsys: Captured) -> None:
    (folder / "config.yaml").write_bytes(content)
    for verb in ("report", "compare", "resume", "nearest"):
        assert_told(capsys, verbs(folder)[verb], "")


def test_a_damaged_line_of_the_log_hides_none_that_follow(folder: Path, capsys: Captured) -> None:
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    first, *rest = whole.splitlines(keepends=True)
    path.write_bytes(first + b'{"step": 2, "lo\n' + b"".join(rest))
    assert assert_told(capsys, verbs(folder)["report"], "") == 0
    page = (folder / "report.html").read_text()
    assert "metrics.jsonl: 1 line is damaged and left out (line 2)." in page
    path.write_bytes(whole)
    assert assert_told(capsys, verbs(folder)["report"], "") == 0
    again = (folder / "report.html").read_text()
    assert "left out" not in again
    assert page.count("<path") == again.count("<path")


def test_a_resume_keeps_the_rows_behind_a_damaged_line(
    folder: Path, capsys: Captured, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "metrics.jsonl"
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:-9] + b"\n" + b"".join(rest))
    for name in ("distilled.safetensors", "summary.json", "evaluation.json"):
        (folder / name).unlink()
    assert assert_told(capsys, verbs(folder)["resume"], "") == 0
    assert path.read_bytes() == first + b"".join(rest)
    assert any("1 line is damaged and left out (line 2)" in message for message in caplog.messages)
