"""Small folders and files of the kinds that users have."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trajmatch.data.images import Dataset, load

SIDE = 6


def noise(seed: int, c: int = 3) -> np.ndarray[Any, Any]:
    """uint8 (6, 6, c), or (6, 6) where c is 1."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, c), dtype=np.uint8)
    return pixels[:, :, 0] if c == 1 else pixels


def put(path: Path, pixels: np.ndarray[Any, Any] | Image.Image, **options: Any) -> Path:
    """One image file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def fill(folder: Path, count: int, seed: int, suffix: str = ".png") -> Path:
    """`count` images of their own in a folder."""
    for i in range(count):
        put(folder / f"{seed}-{i}{suffix}", noise(1000 * seed + i))
    return folder


def tree(root: Path, *folders: str, count: int = 4) -> Path:
    """Images in every folder named, all different."""
    for folder in folders:
        fill(root / folder, count, sum(folder.encode()) + len(folder))
    return root


def split_tree(root: Path, train: str, test: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """A training and a test folder with class folders: 4 images of each class, and 2 for test."""
    for k, name in enumerate(classes):
        fill(root / train / name, 4, 1 + k)
        fill(root / test / name, 2, 51 + k)
    return root


def read(source: Any, **arguments: Any) -> Dataset:
    """`load` for sets of few images."""
    return load(source, **{"hold_out": False, "test_fraction": 0.25, **arguments})


def counts(data: Dataset) -> tuple[int, int]:
    """Images for training and for test."""
    return len(data.train), len(data.test)


def encoded(pixels: np.ndarray[Any, Any]) -> bytes:
    """PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
