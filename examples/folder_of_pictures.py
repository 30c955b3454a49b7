"""A folder of pictures, distilled by one command: PNG files in train/CLASS and test/CLASS, as they lie on many disks.

The embedded digits are written as such a folder, which stands for yours; then `trajmatch run --data FOLDER` does all
that it does for any pictures: it reads them, says what it read and what it chose, trains experts, distils, scores the
set beside random pictures, and writes a report.

    python examples/folder_of_pictures.py [FOLDER]        (a new folder; its output is folder_of_pictures.txt)
"""

import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from PIL import Image

import trajmatch
from trajmatch.data.images import load
from trajmatch.run.cli import main as command

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SMALL = ["--experts", "2", "--steps", "60", "--network.width", "16", "--evaluation.networks", "3"]


def write_pictures(folder: Path) -> None:
    """folder/train/zero/0000.png and so on: the digits, with the embedded data's own split into training and test."""
    digits = load("digits", hold_out=False)
    for split, images in (("train", digits.train), ("test", digits.test)):
        for name in NAMES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, (pixels, label) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
            Image.fromarray(pixels[0].numpy()).save(folder / split / NAMES[label] / f"{i:04d}.png")


def main(folder: Path, flags: list[str]) -> None:
    """Distil folder/pictures, which is written first, into folder/run; print what was read, chosen and found."""
    pictures, run, log = folder / "pictures", folder / "run", StringIO()
    write_pictures(pictures)
    print(f"{len(list(pictures.glob('train/*/*.png')))} PNG files for training, in {len(NAMES)} folders of classes")
    words = ["run", "--data", str(pictures), "--out", str(run), *flags]
    print("trajmatch", *words)
    with redirect_stderr(log), redirect_stdout(StringIO()):
        code = command(words)
    print(*(line for line in log.getvalue().splitlines() if re.match("read |chosen: ", line)), sep="\n")
    if code:
        raise SystemExit(log.getvalue())
    print(f"classes: {', '.join(trajmatch.load(run).classes)}")
    for name, score in json.loads((run / "evaluation.json").read_text())["accuracy"].items():
        print(f"{name}: {score['mean']:.1%} +- {score['std']:.1%}, n = {score['n']}; {score['how']}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/folder-of-pictures"), SMALL)
