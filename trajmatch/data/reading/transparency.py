"""Transparent images laid on a background of one colour."""

from contextlib import suppress
from dataclasses import dataclass

from PIL import Image, ImageColor


@dataclass(frozen=True)
class Background:
    """A colour and what it is called."""

    name: str
    rgb: tuple[int, int, int]

    @property
    def is_grey(self) -> bool:
        """Whether a grey image stays grey on it."""
        return len(set(self.rgb)) == 1


WHITE = Background("white", (255, 255, 255))


def background(name: str) -> Background:
    """The colour of a setting: a name of CSS or #rrggbb. Raises ValueError for anything else."""
    found: tuple[int, ...] = ()
    with suppress(ValueError):
        found = ImageColor.getrgb(name)
    if len(found) != 3:  # four where the colour is transparent itself
        raise ValueError(f"--images.background is {name!r}: it must be a colour such as white, black or #808080.")
    red, green, blue = found
    return Background(name, (red, green, blue))


def scale_transparent_value(image: Image.Image, is_cut: bool) -> None:
    """Bring the value that an opened file calls transparent to the eight bits in which Pillow reads the pixels.

    Pillow leaves this value in the file's own bits: two or four of grey, or sixteen of colour (is_cut), of which Pillow
    reads the upper eight. So another value would be transparent, or none.
    """
    value = image.info.get("transparency")
    if is_cut and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)
    elif isinstance(value, int) and image.mode == "L":
        raws = {str(tile[3]) for tile in getattr(image, "tile", ())}
        for bits in (2, 4):
            if f"L;{bits}" in raws:
                image.info["transparency"] = value * 255 // (2**bits - 1)


def composited(image: Image.Image, behind: Background) -> tuple[Image.Image, bool]:
    """The image without transparency, laid on `behind` where it has some, and whether it has."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        clear = image.convert({"LA": "LA", "La": "LA"}.get(image.mode, "RGBA"))
    elif "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        clear = image.convert("LA" if grey else "RGBA")
    else:
        return image, False
    alpha = clear.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return clear.convert("L" if grey else "RGB"), False
    if grey and behind.is_grey:
        laid = Image.composite(clear.convert("L"), Image.new("L", image.size, behind.rgb[0]), alpha)
    else:
        laid = Image.composite(clear.convert("RGB"), Image.new("RGB", image.size, behind.rgb), alpha)
    return laid, True
