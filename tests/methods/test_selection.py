"""Coresets against plain loops, and on features where the answer is plain."""

from itertools import combinations

import pytest
import torch

from tests.oracles import F64, random
from trajmatch.methods.selection import by_class, herding, k_center


def test_herding_by_a_plain_loop() -> None:
    features = random(12, 4, seed=1)
    mean, chosen = features.mean(0), []
    for j in range(1, 6):
        errors = {
            i: float(((sum(features[c] for c in chosen) + features[i]) / j - mean).norm())
            for i in range(12)
            if i not in chosen
        }
        chosen.append(min(errors, key=errors.__getitem__))
    assert herding(features, 5).tolist() == chosen
    everything = herding(features, 12)
    assert sorted(everything.tolist()) == list(range(12))


def test_k_center_covers_within_twice_the_best_radius() -> None:
    features = random(14, 3, seed=2)

    def radius(centres: list[int]) -> float:
        return float(torch.cdist(features, features[centres]).min(1).values.max())

    found = k_center(features, 3).tolist()
    best = min(radius(list(centres)) for centres in combinations(range(14), 3))
    assert best <= radius(found) <= 2 * best
    assert found[0] == int((features - features.mean(0)).norm(dim=1).argmin())
    assert len(set(k_center(features, 14).tolist())) == 14


def test_k_center_takes_one_of_each_cluster() -> None:
    centres = 100 * torch.eye(4, dtype=F64)
    features = (centres[:, None] + 0.1 * random(4, 5, 4, seed=3)).view(20, 4)
    assert sorted(i // 5 for i in k_center(features, 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["herding", "k-center"])
def test_classes_are_chosen_from_apart(kind: str) -> None:
    features, y = random(30, 3, seed=4), torch.arange(30) % 3
    found = by_class(kind, features, y, 3, 4)
    assert y[found].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    members = (y == 1).nonzero().squeeze(1)
    own = {"herding": herding, "k-center": k_center}[kind](features[members], 4)
    assert found[4:8].tolist() == members[own].tolist()
