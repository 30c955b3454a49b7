"""`folder`: a PNG image for each image of a set, in a folder for each class, with a table of labels."""

import csv
from pathlib import Path

from trajmatch.data.formats import arrays
from trajmatch.data.formats.form import Form, check_png, eight_bits, is_hard, lost, normalising
from trajmatch.data.images import folder_names
from trajmatch.data.reading.pixels import save_png
from trajmatch.data.synthetic import SyntheticSet

IMAGES, TABLE = "images", "labels.csv"
READ = """\
import csv
import numpy as np, torch
from PIL import Image

with open("labels.csv", encoding="utf-8", newline="") as table:
    rows = list(csv.DictReader(table))
pixels = torch.stack([torch.from_numpy(np.array(Image.open(row["file"]))).float() / 255 for row in rows])
pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
"""
HARD = 'labels = torch.nn.functional.one_hot(torch.tensor([int(row["label"]) for row in rows]), {}).float()\n'
SOFT = "labels = torch.tensor([[float(value) for value in list(row.values())[3:]] for row in rows])\n"


def write(synthetic: SyntheticSet, place: Path, whitening: bool) -> Form:
    """Write the images and labels into a folder, and a lossless file beside them where PNG loses something.

    Raises ValueError for images that PNG can't hold.
    """
    check_png(synthetic, "folder")
    pixels, (_, probabilities) = synthetic.pixels, synthetic.seen
    paths = _write_images(synthetic, place)
    _write_table(synthetic, paths, place / TABLE)
    what = lost(pixels)
    files = {
        f"{IMAGES}/": "a PNG image for each image, in a folder for each class",
        TABLE: "the file, the number and the name of the class of each image"
        + ("" if is_hard(probabilities) else ", and its probability of every class"),
        **arrays.write_whitening(synthetic, place, whitening),
    }
    space = normalising(synthetic.space, arrays.LOAD)
    if what is None:
        made = HARD.format(len(synthetic.classes)) if is_hard(probabilities) else SOFT
        return Form(files, f"{READ}{made}step_size = {synthetic.eta!r}\n{space}\nimages = normalise(pixels)\n")
    arrays.write_set(synthetic, place / arrays.NAME)
    files[arrays.NAME] = arrays.HOLDS
    return Form(files, arrays.READ + space, (f"{what}. So `{arrays.NAME}` has the same images lossless: train on it.",))


def _write_images(synthetic: SyntheticSet, place: Path) -> list[str]:
    """Write the PNG files; their names, in the set's order."""
    folders, counts, paths = folder_names(synthetic.classes), [0] * len(synthetic.classes), []
    for image, label in zip(eight_bits(synthetic.pixels).numpy(), synthetic.labels.tolist(), strict=True):
        path = Path(IMAGES, folders[label], f"{counts[label]:05d}.png")
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        save_png(image, place / path)
        counts[label] += 1
        paths.append(path.as_posix())
    return paths


def _write_table(synthetic: SyntheticSet, paths: list[str], path: Path) -> None:
    _, probabilities = synthetic.seen
    soft = not is_hard(probabilities)
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "class", *([f"p{k}" for k in range(len(synthetic.classes))] if soft else [])])
        for name, label, row in zip(paths, synthetic.labels.tolist(), probabilities.tolist(), strict=True):
            table.writerow([name, label, synthetic.classes[label], *(row if soft else [])])
