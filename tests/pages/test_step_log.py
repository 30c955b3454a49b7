"""The log of steps: a damaged line is counted as what it is, and hides none that follow."""

from pathlib import Path

import pytest

from trajmatch.pages.step_log import line, read_log
from trajmatch.run.stages.checkpoint import truncate_metrics

LINES = [b"{", b"", b"[]", b"3", b"null", b'"x"', b"{}", b'{"step": null}', b'{"step": "3"}', b'{"step": 2.5}',
         b'{"step": true}', b'{"step": -1}', b'{"step": 3, "loss": "x"}', b'{"step": 3, "loss": NaN}',
         b'{"step": 3, "experts": ["x"]}', b"\xff\xfe", b"[" * 50_000, b"\x00" * 100]  # fmt: skip


def rows(count: int) -> list[dict[str, object]]:
    return [
        {"step": k + 1, "loss": 0.5 / (k + 1), "conflict": None, "experts": [k], "seconds": k + 0.25}
        for k in range(count)
    ]


def write(path: Path, count: int = 6) -> list[bytes]:
    path.write_text("".join(f"{line(row)}\n" for row in rows(count)))
    return path.read_bytes().splitlines(keepends=True)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write(tmp_path / "m")
    log = read_log(tmp_path / "m")
    assert (log.rows, log.damaged, log.is_cut, log.words()) == (rows(6), [], False, "")
    assert read_log(tmp_path / "none").rows == []


@pytest.mark.parametrize("bad", LINES)
@pytest.mark.parametrize("where", [0, 3, 6])
def test_a_damaged_line_is_counted_and_the_others_are_kept(bad: bytes, where: int, tmp_path: Path) -> None:
    path = tmp_path / "m"
    lines = write(path)
    path.write_bytes(b"".join([*lines[:where], bad + b"\n", *lines[where:]]))
    log = read_log(path)
    assert log.rows == rows(6)
    assert log.words() == f"1 line is damaged and left out (line {where + 1})"
    truncate_metrics(path, 4)
    assert path.read_bytes() == b"".join(lines[:4])


def test_a_last_line_that_a_kill_has_cut_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "m"
    lines = write(path)
    for size in range(1, len(lines[-1]) - 1):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:size])
        log = read_log(path)
        assert (len(log.rows), log.damaged, log.is_cut) == (5, [], True)
    assert log.words() == "The last line is cut short and left out"
    path.write_bytes(b"".join(lines)[:-1])  # all of it but the end of the line
    assert read_log(path).rows == rows(6)


def test_a_changed_digit_of_a_row_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "m"
    first, second, *rest = write(path)
    path.write_bytes(first + second.replace(b"0.25", b"0.26") + b"".join(rest))
    assert [row["step"] for row in read_log(path).rows] == [1, 3, 4, 5, 6]
    # The same step takes other seconds the next time, and its row is the same.
    assert (
        line({"step": 1, "seconds": 1}).partition("check")[2] == line({"step": 1, "seconds": 2}).partition("check")[2]
    )


def test_a_log_of_an_older_version_has_no_checksums(tmp_path: Path) -> None:
    (tmp_path / "m").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.4}\n')
    assert [row["loss"] for row in read_log(tmp_path / "m").rows] == [0.5, 0.4]


def test_a_resume_loses_no_good_row_behind_a_damaged_or_a_later_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m"
    lines = write(path)
    path.write_bytes(b"".join([lines[0], b"x\n", lines[5], lines[1], b"\xff\n", lines[2]]))
    truncate_metrics(path, 3)
    assert path.read_bytes() == b"".join(lines[:3])
    assert caplog.messages == [f"{path}: 2 lines are damaged and left out (line 2, 5)"]
