"""A job of several processes that distils small sets.

    torchrun --nproc-per-node W -m tests.run.ranks_job EXPERTS FOLDER

Without torchrun it is one process, whose sets the others must equal to the last bit.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

from tests.small import FLAGS
from trajmatch.machine.messages import heard
from trajmatch.machine.ranks import joined, serve
from trajmatch.machine.torchrun import rank, world
from trajmatch.run.assembly.engine import prepare_process
from trajmatch.run.stages.run import Run
from trajmatch.settings.command_line import settings_of

CASES = {
    **{
        f"{method}-{K}": ["--method", method, "--matching.segments", str(K)]
        for method in ("contra", "satm", "satm-contra", "tesla")
        for K in (1, 3, 4)
    },
    "random-window-3": [
        "--method",
        "contra",
        "--matching.segments",
        "3",
        "--matching.estimator",
        "random-window",
        "--matching.differentiated-steps",
        "3",
    ],
    **{
        f"early-{method}-{K}": [
            *("--method", method, "--matching.segments", str(K), "--matching.early-stop"),
            *("--matching.masked-share", "0.25", "--matching.path", "straight", "--matching.last-epoch", "2"),
        ]
        for method, K in (("contra", 3), ("satm", 3), ("satm", 1), ("tesla", 4))
    },
    "upgrad-3": ["--method", "contra", "--matching.segments", "3", "--matching.combine", "upgrad"],
    # A step of one segment, then of two: ranks 2 and 3 of four help the first rank, then one each.
    "chunks": ["--method", "satm-contra", "--matching.concurrent-from", "2", "--micro-batch", "3"],
    "tiles-3": ["--method", "satm-contra", "--matching.segments", "3", "--factor", "2", "--matching.batch", "12"],
    "tiles-chunks": ["--method", "tesla", "--factor", "2", "--micro-batch", "9"],
    "chunks-tesla": ["--method", "tesla", "--micro-batch", "4"],
}


def distil(experts: Path, folder: Path) -> None:
    """Distil every case, each in a folder of its own."""
    for name, flags in CASES.items():
        words = [*FLAGS[1:], "--steps", "4", "--experts", str(experts), *flags]
        config = settings_of("distill", FLAGS[0], words).config
        this = Run(config, folder / name, "test")
        this.experts()
        this.distill()


def main() -> int:
    prepare_process()
    if rank() > 0:
        return serve("cpu")
    with heard(quiet=True), joined("cpu") if world() > 1 else nullcontext():
        distil(Path(sys.argv[1]), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
