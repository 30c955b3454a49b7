"""Coresets: real images chosen by their features, the baselines that condensation is compared with.

Legend: N images of one class with features of d numbers, k chosen.
"""

import torch
from torch import Tensor


def herding(features: Tensor, k: int) -> Tensor:
    """Indices (k,), one after another: each brings the mean of the chosen features (N, d) nearest to the mean of all.

    Herding (Welling 2009) as iCaRL chooses exemplars (arXiv 1611.07725, algorithm 4). Cost: k N d.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for j in range(1, k + 1):
        distance = ((total + features) / j - mean).square().sum(1)
        i = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(i)
        free[i] = False
        total = total + features[i]
    return torch.tensor(chosen)


def k_center(features: Tensor, k: int) -> Tensor:
    """Indices (k,): the image nearest to the mean of the features (N, d), then each time the farthest from all chosen.

    This is the greedy cover of Sener & Savarese (arXiv 1708.00489), whose radius is at most twice the best one. Cost:
    k N d.
    """
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = (features - features[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


SELECTIONS = {"herding": herding, "k-center": k_center}


def by_class(kind: str, features: Tensor, y: Tensor, num_classes: int, ipc: int) -> Tensor:
    """Indices (C ipc,), by class, of images chosen by their features (n, d); y (n,) labels."""
    found = []
    for label in range(num_classes):
        members = (y == label).nonzero().squeeze(1)
        found.append(members[SELECTIONS[kind](features[members], ipc)])
    return torch.cat(found)
