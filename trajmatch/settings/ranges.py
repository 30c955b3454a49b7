"""What values a setting may have, told beside its type: `radius: Annotated[float, Range(0, 1)]`. No torch here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

# Beyond these nothing can work: float32 overflows, and no loop ends.
FINITE, BILLION = 1e30, 10**9


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `above` and `below` leave the ends out. `name` is what to call them all."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    name: str = ""

    def wrong(self, value: Any) -> str | None:
        """What a value must be where it is something else, as words. `not`, so that nan is refused too."""
        high = not (value < self.high if self.below else value <= self.high)
        low = not (value > self.low if self.above else value >= self.low)
        if not (low or high):
            return None
        ends = (
            f"{'above' if self.above else 'at least'} {self.low}",
            f"{'below' if self.below else 'at most'} {self.high}",
        )
        if self.name:
            beyond = value == value and value not in (float("inf"), float("-inf")) and value > 0
            return f"{self.name} from {self.low} to {self.high}" if beyond else self.name
        return " and ".join(ends) if self.high <= 1 else ends[0] if low else ends[1]


@dataclass(frozen=True)
class Text:
    """Words that a file system and a report can hold; nothing at all only where `empty` says so."""

    empty: bool = False

    def wrong(self, value: Any) -> str | None:
        """What a text must be where it is something else, as words."""
        text = str(value)
        if not self.empty and not text.strip():
            return "something that is not empty"
        if "\0" in text:
            return "without characters of code 0"
        return None if is_utf8(text) else "in UTF-8, and has bytes that are not: rename it"


@dataclass(frozen=True)
class Shard:
    """A part i/n."""

    def wrong(self, value: Any) -> str | None:
        """What a part must be where it is something else, as words."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", value)
        good = found is not None and int(found[1]) < int(found[2])
        return None if good else "i/n with i from 0 to n - 1, such as 0/4"


@dataclass(frozen=True)
class Choice:
    """One of some words, or MODULE:NAME, which stands for code of the user's."""

    words: tuple[str, ...]

    def wrong(self, value: Any) -> str | None:
        """What a word must be where it is something else, as words."""
        known = value in self.words or re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", value) is not None
        return None if known else f"one of {', '.join(self.words)}, or MODULE:NAME, code of your own"


def is_utf8(text: str) -> bool:
    """Whether a text can be written; what the system hands over of other bytes can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_number(text: str) -> int:
    """A whole number as a command line or a file writes it: plain digits. Raises ValueError."""
    if not re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        raise ValueError("must be a whole number")
    return int(text)


def number(text: str) -> float:
    """A number as a command line or a file writes it. Raises ValueError."""
    plain = r"[+-]?([0-9]{1,300}\.?[0-9]{0,300}|\.[0-9]{1,300})([eE][+-]?[0-9]{1,9})?"
    if not re.fullmatch(rf"{plain}|[+-]?\.?(inf|nan)", text, re.ASCII | re.IGNORECASE):
        raise ValueError("must be a number")
    return float(re.sub(r"\.(?=[in])", "", text.lower()))


def is_count(text: str) -> bool:
    """Whether a text is a number of plain digits, as --experts may be: "²" and "٣" are digits too, and no numbers."""
    return text.isascii() and text.isdigit()


Count = Annotated[int, Range(1, BILLION)]
"""1, 2, ..."""
CountOrNone = Annotated[int, Range(0, BILLION)]
"""0, 1, 2, ..."""
Few = Annotated[int, Range(1, 10_000)]
"""As many as can be held at once."""
Threads = Annotated[int, Range(1, 1024)]
"""Threads or processes."""
Side = Annotated[int, Range(1, 4096)]
"""Pixels along a side."""
Depth = Annotated[int, Range(1, 100)]
"""Blocks of a network."""
Width = Annotated[int, Range(1, 65_536)]
"""Channels of a network."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""Seed of a generator."""
Positive = Annotated[float, Range(1 / FINITE, FINITE, name="a positive number")]
"""Such as a learning rate."""
NotNegative = Annotated[float, Range(0, FINITE)]
"""Such as a weight decay."""
Share = Annotated[float, Range(0, 1, below=True)]
"""Such as a momentum."""
Words = Annotated[str, Text()]
"""A name."""
Families = Annotated[str, Text(empty=True)]
"""Families of augmentation; nothing is as good as none."""
Place = Annotated[Path, Text()]
"""A file or a folder."""
