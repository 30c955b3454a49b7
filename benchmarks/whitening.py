"""How far whitening by a low rank is from ZCA: `python -m benchmarks.whitening --data DATA`.

Images of more than 3 x 32 x 32 numbers are whitened along their leading directions, and by one scale along all others
(data/low_rank.py). What comes of it is computed exactly here, from all directions that have a variance, and stands
beside the estimate that a command prints. Cost: the n x n matrix of n images, and its eigenvectors.
"""

import argparse
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from trajmatch.data.images import load
from trajmatch.data.low_rank import Directions, leading
from trajmatch.data.whitening import InputSpace, rank
from trajmatch.machine.processor import kind
from trajmatch.run.assembly.engine import prepare_process


def exactly(x: Tensor, found: Directions, eps: float) -> dict[str, float]:
    """Errors of the covariance that images x (n, c, h, w) of pixels in 0..255 have after whitening.

    whole and kept: in the Frobenius norm, relative to what ZCA leaves, S / (S + eps), of all directions and of the
    leading ones; largest: of any direction's variance, in the spectral norm.
    """
    flat = x.flatten(1).double() / 255
    flat -= flat.mean(0)
    variances, vectors = torch.linalg.eigh(flat @ flat.T / (len(x) - 1))
    there = variances > 1e-9 * variances.max()
    S, V = variances[there], vectors[:, there]
    U = flat.T @ V / (S * (len(x) - 1)).sqrt()  # (d, k): in these coordinates the covariance is diag(S)
    inside, rest = U.T @ found.basis, (found.rest + eps) ** -0.5
    whitening = (inside * ((found.variances + eps) ** -0.5 - rest)) @ inside.T + rest * torch.eye(len(S), dtype=S.dtype)
    wanted = S / (S + eps)
    left = (whitening * S) @ whitening - wanted.diag()
    norm = float(left.norm())
    return {
        "whole": norm / float(wanted.norm()),
        "kept": norm / float((found.variances / (found.variances + eps)).norm()),
        "largest": float(torch.linalg.eigvalsh((left + left.T) / 2).abs().max()),
    }


def measured(x: Tensor) -> dict[str, Any]:
    """The row of images x (n, c, h, w), uint8."""
    began = time.perf_counter()
    found = leading(x, x.flatten(1).double().mean(0) / 255, rank(len(x), x[0].numel()), InputSpace.eps)
    seconds = time.perf_counter() - began
    row = {"images": len(x), "dimensions": x[0].numel(), "rank": len(found.variances), "seconds": seconds}
    return row | {"its own estimate": found.error, **exactly(x, found, InputSpace.eps)}


def main(words: list[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whitening", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="images, as for trajmatch --data")
    parser.add_argument("--size", type=int, default=64, help="side in pixels (64)")
    parser.add_argument("--classes", type=int, default=10, help="the first so many classes (10)")
    given = parser.parse_args(words)

    def run() -> None:
        prepare_process()
        names = load(given.data, size=4).classes[: given.classes]
        row = measured(load(given.data, size=given.size, classes=names).train.x)
        print(f"{kind()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
        print(measure.table([row], {key: key for key in row}))

    return measure.exit_code("benchmarks.whitening", run, "interrupted")


if __name__ == "__main__":
    sys.exit(main())
