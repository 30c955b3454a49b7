"""K hypergradients made into one: Gramian, cosines and the two rules of core, by hand and as properties."""

import math

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.combine import adaptive_weights, combine, cosine_matrix, gramian, mean_weights

IMAGES = (4, 1, 3, 3)


def hypergradients(K: int, seed: int = 0) -> list[Tensor]:
    """K of them whose norms differ by powers of three."""
    return [3.0**k * random(*IMAGES, seed=seed + k) for k in range(K)]


def test_the_gramian_holds_the_inner_products_of_whole_tensors() -> None:
    d = hypergradients(4)
    wanted = torch.tensor([[float((a * b).sum()) for b in d] for a in d], dtype=F64)
    assert gramian(d).shape == (4, 4)
    assert relative_error(gramian(d), wanted) < 1e-12


def test_cosines_by_hand() -> None:
    d = [torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([-3.0, 0.0]), torch.tensor([0.0, 5.0])]
    half = math.sqrt(0.5)
    wanted = torch.tensor([[1, half, -1, 0], [half, 1, -half, half], [-1, -half, 1, 0], [0, half, 0, 1]])
    assert relative_error(cosine_matrix(gramian(d)), wanted) < 1e-6


def test_cosines_have_ones_on_the_diagonal_and_do_not_know_lengths() -> None:
    d = hypergradients(5)
    found = cosine_matrix(gramian(d))
    assert torch.allclose(found.diagonal(), torch.ones(5, dtype=F64), rtol=0, atol=1e-12)
    assert float(found.abs().max()) < 1 + 1e-12
    assert torch.allclose(found, found.T, rtol=0, atol=1e-15)
    longer = [10.0**-k * d_k for k, d_k in enumerate(d)]
    assert relative_error(cosine_matrix(gramian(longer)), found) < 1e-12


def test_a_permutation_of_the_segments_permutes_everything() -> None:
    d, order = hypergradients(5), [3, 0, 4, 1, 2]
    G, there = gramian(d), gramian([d[k] for k in order])
    assert relative_error(there, G[order][:, order]) < 1e-12
    assert relative_error(cosine_matrix(there), cosine_matrix(G)[order][:, order]) < 1e-12
    assert relative_error(adaptive_weights(there), adaptive_weights(G)[order]) < 1e-12
    assert relative_error(mean_weights(there), mean_weights(G)[order]) < 1e-12


def test_the_cosine_with_a_zero_hypergradient_is_zero() -> None:
    d = hypergradients(3)
    d[1] = torch.zeros_like(d[1])
    found = cosine_matrix(gramian(d))
    assert torch.equal(found[1], torch.zeros(3, dtype=F64))
    assert torch.equal(found[:, 1], torch.zeros(3, dtype=F64))
    rest = cosine_matrix(gramian([d[0], d[2]]))
    assert relative_error(found[[0, 2]][:, [0, 2]], rest) < 1e-12
    assert torch.equal(cosine_matrix(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_a_gramian_rounded_below_zero_does_no_harm() -> None:
    G = torch.tensor([[1.0, 0.0], [0.0, -1e-9]])
    assert torch.equal(cosine_matrix(G), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert torch.equal(adaptive_weights(G), torch.tensor([0.25, 0.0]))


@pytest.mark.parametrize("K", [2, 3, 7])
def test_the_mean_weighs_all_alike(K: int) -> None:
    d = hypergradients(K)
    w = mean_weights(gramian(d))
    assert w.shape == (K,)
    assert torch.equal(w, torch.full((K,), 1 / K, dtype=F64))
    assert relative_error(combine(d, w), torch.stack(d).mean(0)) < 1e-12


def test_adaptive_weights_by_hand() -> None:
    # Norms 1, 2 and 6, of mean 3: weights 3 / (3 |d_k|).
    d = [torch.tensor([0.6, 0.8]), torch.tensor([0.0, -2.0]), torch.tensor([6.0, 0.0])]
    assert relative_error(adaptive_weights(gramian(d)), torch.tensor([1.0, 1 / 2, 1 / 6])) < 1e-6


@pytest.mark.parametrize("K", [2, 3, 6])
def test_adaptive_weights_make_every_segment_pull_equally_hard(K: int) -> None:
    d = hypergradients(K)
    w, norms = adaptive_weights(gramian(d)), torch.stack([d_k.norm() for d_k in d])
    assert relative_error(w * norms, torch.full((K,), float(norms.mean()) / K, dtype=F64)) < 1e-12
    assert float((w - 1 / K).abs().max()) > 0.1  # and they are not the mean
    assert relative_error(adaptive_weights(gramian([100 * d_k for d_k in d])), w) < 1e-12
    equal = [d_k / d_k.norm() for d_k in d]
    assert relative_error(adaptive_weights(gramian(equal)), mean_weights(gramian(equal))) < 1e-12


def test_a_zero_hypergradient_has_no_adaptive_weight_and_counts_in_the_mean_norm() -> None:
    d = [torch.zeros(2), torch.tensor([3.0, 0.0]), torch.tensor([0.0, 6.0])]  # mean norm 3
    assert relative_error(adaptive_weights(gramian(d)), torch.tensor([0.0, 1 / 3, 1 / 6])) < 1e-6
    assert float(adaptive_weights(gramian(d))[0]) == 0
    assert torch.equal(adaptive_weights(torch.zeros(3, 3)), torch.zeros(3))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_lengths_far_from_one_are_no_trouble_in_single_precision(scale: float) -> None:
    d = [(scale * d_k).float() for d_k in hypergradients(3)]
    wanted = gramian(hypergradients(3))
    assert relative_error(cosine_matrix(gramian(d)).double(), cosine_matrix(wanted)) < 1e-5
    assert relative_error(adaptive_weights(gramian(d)).double(), adaptive_weights(wanted)) < 1e-5


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 3), IMAGES])
@pytest.mark.parametrize("K", [1, 2, 4])
def test_combining_is_the_plain_weighted_sum(shape: tuple[int, ...], K: int) -> None:
    d = [random(*shape, seed=10 + k) for k in range(K)]
    w = random(K, seed=20)
    found = combine(d, w)
    assert found.shape == shape
    assert relative_error(found, sum((float(w[k]) * d[k] for k in range(K)), torch.zeros(shape, dtype=F64))) < 1e-12


def test_combining_leaves_what_it_is_given_alone() -> None:
    d = hypergradients(3)
    kept = [d_k.clone() for d_k in d]
    combine(d, torch.tensor([1.0, 0.0, 0.0], dtype=F64)).mul_(2)
    assert all(torch.equal(a, b) for a, b in zip(d, kept, strict=True))
