"""Architecture search on a distilled set: does it rank networks as all images do?

A set of the digits is distilled, and `trajmatch search` trains each of eight ConvNets on the set, on as many random
real images and on all images; it says how well the first two rankings agree with the last, and what a choice loses.

    python examples/choose_architecture.py [FOLDER]        (a new folder; its output is choose_architecture.txt)
"""

import sys
from contextlib import redirect_stderr
from io import StringIO

from trajmatch.run.cli import main as command

SET = ["distill", "digits-ipc10", "--network.width", "16", "--experts", "3", "--steps", "40"]
SPACE = ["--depths", "1", "2", "--widths", "4", "16", "--norms", "instance", "none", "--poolings", "avg"]


def done(words: list[str]) -> None:
    """Run a command, which prints its result; say how it is called. What it tells on the way is said if it fails."""
    said = StringIO()
    print("trajmatch", *words, flush=True)
    with redirect_stderr(said):
        code = command(words)
    if code:
        raise SystemExit(said.getvalue())


def main(folder: str, set_flags: list[str], space: list[str]) -> None:
    """Distil the set into the folder, and search with it."""
    done([*set_flags, "--out", folder])
    done(["search", folder, *space])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/choose-architecture", SET, SPACE)
