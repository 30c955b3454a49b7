"""Small modules of core: vector, draws, inner, matching, rate, descent."""

import itertools

import pytest
import torch
from torch import nn

from tests.oracles import F64, random, relative_error
from trajmatch.core.descent import Adam, Momentum, new_moments
from trajmatch.core.draws import batches, derive, generator, smoothing_noise
from trajmatch.core.loss import cross_entropy
from trajmatch.core.matching import matching
from trajmatch.core.rate import is_valid_rate, logarithmic
from trajmatch.core.vector import Layout, functional


def test_layout_round_trip_and_order() -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    layout = Layout.of(network)
    theta = random(layout.size, seed=0)
    assert layout.size == 3 * 4 + 4 + 4 * 2 + 2
    assert torch.equal(layout.join(layout.split(theta)), theta)
    assert layout.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert layout.join(layout.split(theta)).data_ptr() != theta.data_ptr()


def test_functional_forward_is_the_modules() -> None:
    with torch.random.fork_rng(devices=[]):
        network = nn.Linear(3, 2)
    theta = Layout.of(network).join(dict(network.named_parameters())).detach()
    x = random(5, 3, seed=1).float()
    assert torch.equal(functional(network)(theta, x), network(x))
    assert not torch.equal(functional(network)(theta + 1, x), network(x))


def test_batch_norm_with_running_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        functional(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1)))
    functional(nn.BatchNorm2d(1, track_running_stats=False))


def test_seeds_depend_on_every_part() -> None:
    seeds = {derive(*parts) for parts in [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a1"), (0, "a", "1")]}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert torch.equal(torch.rand(3, generator=generator(5, "x")), torch.rand(3, generator=generator(5, "x")))


def test_batches_cover_every_permutation() -> None:
    found = list(itertools.islice(batches(7, 3, generator(0, "b")), 6))
    assert [len(b) for b in found] == [3, 3, 1, 3, 3, 1]
    for k in (0, 3):
        assert sorted(torch.cat(found[k : k + 3]).tolist()) == list(range(7))
    assert not torch.equal(torch.cat(found[:3]), torch.cat(found[3:]))
    for whole in (None, 7):
        assert torch.equal(next(batches(7, whole, generator(0, "b"))), torch.arange(7))
    for wrong in (0, 8):
        with pytest.raises(ValueError, match=f"batch is {wrong} and must be at least 1 and at most the 7 images"):
            next(batches(7, wrong, generator(0, "b")))


def test_noise_has_the_promised_rms_for_each_image() -> None:
    X = torch.stack([torch.full((3, 40, 40), 0.5), torch.full((3, 40, 40), 4.0)])
    z = smoothing_noise(X, 0.1, generator(0, "z"))
    rms = z.flatten(1).square().mean(1).sqrt()
    # 4,800 draws: the sample's standard error is 1 %.
    assert rms.tolist() == pytest.approx([0.05, 0.4], rel=0.05)
    assert torch.equal(smoothing_noise(X, 0.0, generator(0, "z")), torch.zeros_like(X))


def test_cross_entropy_of_soft_and_hard_labels() -> None:
    logits, labels = random(6, 4, seed=0), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = cross_entropy(lambda theta, z: logits)
    one_hot = nn.functional.one_hot(labels, 4).double()
    assert relative_error(loss(logits, logits, one_hot), nn.functional.cross_entropy(logits, labels)) < 1e-12
    soft = random(6, 4, seed=1).softmax(1)
    assert relative_error(loss(logits, logits, soft), nn.functional.cross_entropy(logits, soft)) < 1e-12


def test_matching_and_its_cotangent() -> None:
    theta, s, g = (random(6, seed=k) for k in range(3))
    theta.requires_grad_()
    L, q = matching(theta, s, g)
    assert relative_error(L, ((theta - g) ** 2).mean() / ((s - g) ** 2).mean()) < 1e-12
    assert relative_error(q, torch.autograd.grad(L, theta)[0]) < 1e-12
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert relative_error(matching(theta[order], s[order], g[order])[0], L) < 1e-12


def test_rate() -> None:
    log_eta = torch.tensor(-3.0, dtype=F64, requires_grad=True)
    (wanted,) = torch.autograd.grad(log_eta.exp() ** 3, log_eta)
    eta = log_eta.detach().exp()
    assert relative_error(logarithmic(3 * eta**2, eta), wanted) < 1e-12
    values = [1e-3, 0.0, -1.0, float("nan"), float("inf")]
    assert [bool(is_valid_rate(torch.tensor(v))) for v in values] == [True, False, False, False, False]


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_outer_optimisers_against_torch(name: str) -> None:
    value = random(4, 3, seed=0)
    theirs = value.clone().requires_grad_()
    if name == "momentum":
        ours: Momentum | Adam = Momentum(0.3, 0.5)
        optimiser: torch.optim.Optimizer = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
    else:
        ours, optimiser = Adam(0.3), torch.optim.Adam([theirs], lr=0.3)
    moments = new_moments(value)
    for count in range(5):
        d = random(4, 3, seed=count + 1)
        again = ours.step(value, d, moments, torch.tensor(count))
        value, moments = ours.step(value, d, moments, count)
        assert relative_error(again.value, value) < 1e-12
        theirs.grad = d
        optimiser.step()
        assert relative_error(value, theirs) < 1e-12
