"""metrics.jsonl, the log of a distillation's steps: a row for each, with a checksum. No torch here."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

# What a row's checksum is kept under, and what it is not of: the same step takes other seconds the next time.
CHECK, TIMES = "check", ("seconds",)


@dataclass
class Log:
    """The rows of a log and their lines as they stand; the numbers, from 1, of the lines that are damaged.

    is_cut: the last line was cut short, as a kill leaves it; it is not among the damaged ones.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    is_cut: bool = False

    def words(self) -> str:
        """What is left out, as a sentence; nothing where all is there."""
        told = []
        if self.damaged:
            first = ", ".join(map(str, self.damaged[:5])) + (", ..." if len(self.damaged) > 5 else "")
            are = "lines are" if len(self.damaged) > 1 else "line is"
            told.append(f"{len(self.damaged)} {are} damaged and left out (line {first})")
        if self.is_cut:
            told.append("The last line is cut short and left out")
        return "; ".join(told)


def line(row: Mapping[str, Any]) -> str:
    """A row as it stands in the log, with its checksum, and without the end of the line."""
    return json.dumps({**row, CHECK: _check(row)}, allow_nan=False)


def read_log(path: Path) -> Log:
    """The log of a run; an empty one where there is none. A damaged line hides none that follow it."""
    log = Log()
    if not path.exists():
        return log
    *whole, rest = path.read_bytes().split(b"\n")
    for number, text in enumerate([*whole, rest] if rest else whole, 1):
        is_last = number > len(whole)
        if (row := _row(text)) is not None:
            log.rows.append(row)
            log.lines.append(text.decode("utf-8"))
        elif is_last:
            log.is_cut = True
        else:
            log.damaged.append(number)
    return log


def _row(text: bytes) -> dict[str, Any] | None:
    """A line's row without its checksum, None where it is damaged. Rows of older versions have no checksum."""
    try:
        row = json.loads(text.decode("utf-8"), parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return None
    check = row.pop(CHECK, None)
    if not all(map(_is_value, row.values())) or (check is not None and check != _check(row)):
        return None
    return row


def _check(row: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in row.items() if k not in TIMES}, sort_keys=True)
    return f"{zlib.crc32(text.encode()):08x}"


def _is_value(value: Any) -> bool:
    """Whether a value can stand in a row: a finite number, none, or a list of numbers."""
    if isinstance(value, list):
        return all(type(one) in (int, float) and isfinite(one) for one in value)
    return value is None or (type(value) in (int, float) and isfinite(value))


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a run's log, and what is left out as a sentence, if anything is; none where there is no log."""
    log = read_log(path)
    return log.rows, log.words()
