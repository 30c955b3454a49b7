"""One line that tells what was read: classes, counts, size and colour, what was left out, and what was assumed."""

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from trajmatch.data.reading.splits import listed

_NAMES = 5  # classes that are named
_NAME_LENGTH = 40


def told(
    where: str,
    classes: Sequence[str],
    counts: tuple[int, int, int],
    shape: Sequence[int],
    held_out: bool,
    test_from: str,
    notes: Sequence[str],
) -> str:
    """The line that tells what was read.

    where:     what was read.
    classes:   names of the classes.
    counts:    images for training, validation and test.
    shape:     (c, h, w) of an image.
    held_out:  whether the validation images are no training images.
    test_from: what the test images are, in words.
    notes:     what was left out or assumed, a phrase each.

    >>> told("pets", ["cat", "dog"], (9, 1, 2), (3, 8, 8), True, "the folder 'test'", ["left out: 1 link"])
    "read pets: 2 classes (cat, dog); 9 images for training, 1 for validation and 2 for test (the folder 'test'); \
8 x 8 pixels in colour; left out: 1 link"
    """
    train, validation, test = counts
    c, h, w = shape
    apart = "" if held_out else " (which are training images too)"
    parts = [
        f"{len(classes)} classes ({listed([one_line(name) for name in classes], _NAMES)})",
        f"{train} images for training, {validation} for validation{apart} and {test} for test"
        + (f" ({test_from})" if test_from else ""),
        f"{w} x {h} pixels in {'grey' if c == 1 else 'colour'}",
        *notes,
    ]
    return f"read {one_line(where, 200)}: {'; '.join(parts)}"


def one_line(name: str, most: int = _NAME_LENGTH) -> str:
    """A name without line breaks and other signs that cannot be seen, cut where it is very long.

    >>> one_line("a\\nb"), one_line(""), one_line("x" * 50, 5)
    ('a b', "''", 'xxxx…')
    """
    shown = " ".join("".join(sign if sign.isprintable() else " " for sign in name[: 4 * most]).split())
    return (f"{shown[: most - 1]}…" if len(shown) > most else shown) or "''"


def duplicates(train: Sequence[bytes], labels: Tensor, test: Sequence[bytes]) -> list[str]:
    """What is told of images with the same pixels, by their hashes; labels: of the training images."""
    notes = []
    known = set(train)
    leaked = sum(digest in known for digest in test)
    if leaked:
        what = "test image is also a training image" if leaked == 1 else "test images are also training images"
        notes.append(f"{leaked} {what} (the same pixels)")
    if len(known) < len(train):
        pairs = Counter(zip(train, labels.tolist(), strict=True))
        copies = sum(count - 1 for count in pairs.values())
        if copies:
            what = "training image is a copy of another" if copies == 1 else "training images are copies of others"
            notes.append(f"{copies} {what} of its class")
        torn = sum(count > 1 for count in Counter(digest for digest, _ in pairs).values())
        if torn:
            notes.append(f"{torn} {'image is' if torn == 1 else 'images are'} in more than one class")
    return notes


def untested(classes: Sequence[str], labels: Tensor) -> list[str]:
    """What is told of classes without test images; labels: of the test images."""
    tested = set(labels.tolist())
    missing = [one_line(name) for label, name in enumerate(classes) if label not in tested]
    return [f"no test images of {listed(missing)}"] if missing else []
