"""Weights of the K hypergradients of a concurrent step, by the name of their rule.

mean, adaptive  core/combine.py
pcgrad          each d_k loses what points against another (arXiv 2001.06782); the mean of what is left
mgda            the shortest vector in their convex hull (Desideri 2012)
upgrad          each d_k projected so that it harms no segment, then averaged (arXiv 2406.16232)

The last three are torchjd's, an optional dependency.
"""

import torch
from torch import Tensor

from trajmatch.core.combine import adaptive_weights, mean_weights
from trajmatch.core.draws import derive

RULES = ("mean", "adaptive", "pcgrad", "mgda", "upgrad")


def check_rule(rule: str) -> None:
    """Raise ValueError for a rule whose library is missing."""
    if rule in ("pcgrad", "mgda", "upgrad"):
        try:
            import torchjd.aggregation

            if rule == "upgrad":
                torchjd.aggregation.UPGradWeighting()  # which needs a solver of quadratic programs too
        except ImportError as error:
            raise ValueError(
                f"--matching.combine is {rule}, which needs torchjd ({error}): "
                "pip install 'torchjd[quadprog-projector]', or take mean or adaptive"
            ) from None


def weights(rule: str, G: Tensor, seed: int, step: int) -> Tensor:
    """w (K,) from the Gramian G (K, K); PCGrad's random order is a function of (seed, step)."""
    if rule == "mean":
        return mean_weights(G)
    if rule == "adaptive":
        return adaptive_weights(G)
    from torchjd.aggregation import MGDAWeighting, PCGradWeighting, UPGradWeighting

    # The rules see directions in double precision; a common factor changes none of them. On a GPU this waits, once.
    scale = G.diagonal().mean().clamp_min(torch.finfo(G.dtype).tiny)
    scaled = (G / scale).cpu().double()
    if rule == "pcgrad":
        with torch.random.fork_rng(devices=[]):  # torchjd draws from torch's global generator
            torch.manual_seed(derive(seed, "pcgrad", step))
            found = PCGradWeighting()(scaled) / len(G)
    else:
        found = (MGDAWeighting() if rule == "mgda" else UPGradWeighting())(scaled)
    return found.to(G)
