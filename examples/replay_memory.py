"""Continual learning from a memory of distilled sets: the digits arrive two classes at a time.

After each step only the memory is left of the classes before, one image of each class, and new networks are trained on
it and tested on all classes seen so far. What the memory holds differs: random real images, images distilled from each
step's classes apart, or images distilled while experts and students see the memory too (`--replay both`).

    python examples/replay_memory.py        (its output is replay_memory.txt)
"""

import json
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from trajmatch.run.cli import main as command

STREAM = [
    "continual", "digits-ipc1", "--network.width", "16", "--class-steps", "5", "--fresh-networks", "2", "--orders", "2",
]  # fmt: skip
DISTILLED = ["--experts", "2", "--steps", "40"]
MEMORIES = {
    "random real images": ["--method", "random"],
    "distilled apart": ["--method", "mtt", *DISTILLED],
    "distilled, memory replayed": ["--method", "mtt", *DISTILLED, "--replay", "both"],
}


def stream(flags: list[str], folder: Path) -> dict[str, list[float]]:
    """What `continual.json` says of a stream: classes seen, and by step the mean accuracy and its deviation."""
    said = StringIO()
    with redirect_stderr(said), redirect_stdout(StringIO()):
        code = command([*STREAM, *flags, "--out", str(folder)])
    if code:
        raise SystemExit(said.getvalue())
    return json.loads((folder / "continual.json").read_text())


def main(more: list[str]) -> None:
    """Print the command, and by memory means and population standard deviations over orders and networks."""
    print("trajmatch", *STREAM, *more)
    with tempfile.TemporaryDirectory() as place:
        for i, (name, flags) in enumerate(MEMORIES.items()):
            found = stream([*flags, *more], Path(place) / str(i))
            if not i:
                print(f"{'classes seen':<28}" + "".join(f"{seen:>15}" for seen in found["classes_seen"]))
            steps = zip(found["mean"], found["std"], strict=True)
            print(f"{name:<28}" + "".join(f"{mean:>8.1%} +-{std:>5.1%}" for mean, std in steps))
    print(found["how"])


if __name__ == "__main__":
    main(sys.argv[1:])
