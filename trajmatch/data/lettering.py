"""Text in pictures: a font that has all signs of a name, or the class's number where this machine has none."""

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ImageFont, features

_LONGEST = 200  # signs of a name that are looked at: no picture has room for more
_NO_SIGN = "\U0010ffff"  # no font has it, so all draw what stands for a missing sign
_PLACES = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (os.path.join(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"),),
}


class Lettering(NamedTuple):
    """Text of one size. Pillow's own font is taken where it has all signs of the text."""

    points: int
    line: int  # pixels from one line of text to the next

    def width(self, words: str) -> int:
        """Pixels that a text takes."""
        return ceil(self.font(words).getlength(words))

    def font(self, words: str) -> Any:
        """The first font that has all signs of a text, or Pillow's own where no font has them."""
        return _font_for(_signs(words), self.points) or _default(self.points)

    def name(self, words: str, label: int) -> str:
        """A class's name on one line, or its number where it is empty or no font here can draw it."""
        shown = " ".join("".join(sign if sign.isprintable() else " " for sign in words[:_LONGEST]).split())
        if not shown or _font_for(_signs(shown), self.points) is None:
            return f"class {label}"
        return shown

    def shortened(self, words: str, room: int) -> str:
        """`words`, or as much of their beginning as fits in `room` pixels with an ellipsis."""
        if self.width(words) <= room:
            return words
        fitting = (words[:end].rstrip() + "…" for end in range(len(words) - 1, 0, -1))
        return next((short for short in fitting if self.width(short) <= room), "…")


def lettering(points: int) -> Lettering:
    """Lettering of a height in points."""
    return Lettering(points, ceil(points * 1.3))


def _signs(words: str) -> str:
    """What a font must have to draw a text, or a part of it with an ellipsis."""
    return "".join(sorted({*words, "…"}))


@lru_cache(maxsize=4096)
def _font_for(signs: str, points: int) -> Any | None:
    """A font that has all of some signs, or None."""
    if not features.check("raqm") and any(unicodedata.bidirectional(sign) in ("R", "AL") for sign in signs):
        return None  # letters would stand unjoined and in the wrong order
    if _has_all(_default(points), signs):
        return _default(points)
    for path in _font_files():
        try:
            font = ImageFont.truetype(path, points)
        except OSError:  # a font of pictures in fixed sizes, or no font
            continue
        if _has_all(font, signs):
            return font
    return None


@lru_cache(maxsize=32)
def _default(points: int) -> Any:
    """Pillow's own font."""
    return ImageFont.load_default(points)


def _has_all(font: Any, signs: str) -> bool:
    """Whether a font has all signs: none of them is drawn as what stands for a missing sign."""
    missing = _drawn(font, _NO_SIGN)
    return all(sign.isspace() or _drawn(font, sign) != missing for sign in signs)


def _drawn(font: Any, sign: str) -> tuple[Any, bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)


@lru_cache(maxsize=1)
def _font_files() -> list[str]:
    """Matplotlib's font, which has Latin, Greek and Cyrillic letters, then this machine's, in the order of names."""
    import matplotlib

    own = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return [own, *sorted(_system_fonts(), key=_preference)]


def _system_fonts() -> Iterator[str]:
    for place in _PLACES.get(sys.platform, _PLACES["linux"]):
        for folder, _, files in os.walk(os.path.expanduser(place)):
            for file in files:
                # This one has a box for every sign there is.
                if Path(file).suffix.lower() in (".ttf", ".otf", ".ttc") and "lastresort" not in file.lower():
                    yield os.path.join(folder, file)


def _preference(path: str) -> tuple[bool, str, str]:
    """Regular faces of sans-serif fonts first."""
    name = Path(path).stem.lower()
    marked = any(word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif"))
    return marked and "sans" not in name, name, path
