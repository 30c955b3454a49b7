"""Weights of K hypergradients against torchjd's own aggregators, closed forms, and what each rule promises."""

import sys
from itertools import combinations

import pytest
import torch
from torch import Tensor

from tests.oracles import F64, random, relative_error
from trajmatch.core.combine import gramian
from trajmatch.core.draws import derive, generator
from trajmatch.methods.segment_weights import RULES, check_rule, weights

SEED, STEP = 4, 7
# What torchjd allows itself: UPGrad's solver adds 1e-4 of the Gramian's trace, and MGDA, by Frank-Wolfe, stops early.
REGULAR, NEAR = 1e-3, 1e-2


def need(rule: str) -> None:
    """Skip where the rule's library is missing; UPGrad's solver is not installed with torchjd itself."""
    if rule in ("pcgrad", "mgda", "upgrad"):
        pytest.importorskip("torchjd")
    if rule == "upgrad":
        pytest.importorskip("qpsolvers")
        pytest.importorskip("quadprog")


def conflicting(K: int, seed: int = 0) -> Tensor:
    """K hypergradients as rows (K, 5), of norms one to two, many of which point against each other."""
    D = random(K, 5, seed=seed)
    D = D - 1.2 * D.mean(0)
    return D / D.norm(dim=1, keepdim=True) * torch.linspace(1, 2, K, dtype=F64).view(-1, 1)


def agreeing(K: int) -> Tensor:
    """K hypergradients (K, 5) without any conflict, of different norms."""
    return random(K, 5, seed=50).abs() * torch.linspace(1, 3, K, dtype=F64).view(-1, 1)


def combined(rule: str, D: Tensor, step: int = STEP) -> Tensor:
    return weights(rule, gramian(list(D)), SEED, step) @ D


@pytest.mark.parametrize("K", [2, 3, 4, 6])
@pytest.mark.parametrize("rule", ["pcgrad", "mgda", "upgrad"])
def test_every_rule_is_torchjds_aggregator(rule: str, K: int) -> None:
    need(rule)
    from torchjd.aggregation import MGDA, PCGrad, UPGrad

    D = conflicting(K, seed=K)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(SEED, "pcgrad", STEP))
        aggregator = {"pcgrad": PCGrad, "mgda": MGDA, "upgrad": UPGrad}[rule]()
        wanted = aggregator(D) / (K if rule == "pcgrad" else 1)
    assert relative_error(combined(rule, D), wanted) < 1e-6
    assert relative_error(D.mean(0), wanted) > 1e-2


def pcgrad_anew(D: Tensor, step: int) -> Tensor:
    """Gradient surgery on the vectors themselves (arXiv 2001.06782, algorithm 1); the mean."""
    source, found = generator(SEED, "pcgrad", step), []
    for i in range(len(D)):
        v = D[i]
        for j in torch.randperm(len(D), generator=source).tolist():
            along = float(v @ D[j])
            if j != i and along < 0:
                v = v - along / float(D[j] @ D[j]) * D[j]
        found.append(v)
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_pcgrad_is_surgery_on_the_vectors_themselves(K: int) -> None:
    need("pcgrad")
    for step in range(4):
        D = conflicting(K, seed=10 * K + step)
        assert relative_error(combined("pcgrad", D, step), pcgrad_anew(D, step)) < 1e-10


def two(cosine: float) -> tuple[Tensor, Tensor]:
    """Norms 2 and 1.5."""
    sine = (1 - cosine**2) ** 0.5
    return torch.tensor([2.0, 0.0], dtype=F64), 1.5 * torch.tensor([cosine, sine], dtype=F64)


@pytest.mark.parametrize("cosine", [-0.95, -0.3, 0.0, 0.4, 0.9])
@pytest.mark.parametrize(("rule", "tolerance"), [("pcgrad", 1e-10), ("upgrad", REGULAR)])
def test_two_projected_vectors_in_closed_form(rule: str, tolerance: float, cosine: float) -> None:
    need(rule)
    a, b = two(cosine)
    along = min(float(a @ b), 0.0)
    wanted = ((a - along / 2.25 * b) + (b - along / 4 * a)) / 2
    assert relative_error(combined(rule, torch.stack((a, b))), wanted) < tolerance


@pytest.mark.parametrize("cosine", [-0.95, -0.3, 0.0, 0.4, 0.9])
def test_two_vectors_of_mgda_in_closed_form(cosine: float) -> None:
    """The foot of the perpendicular from zero on the line between them, or the shorter one where that is outside."""
    need("mgda")
    a, b = two(cosine)
    share = min(max(float((b - a) @ b / (b - a).square().sum()), 0.0), 1.0)
    assert (share == 0.0) == (cosine == 0.9)
    assert relative_error(combined("mgda", torch.stack((a, b))), share * a + (1 - share) * b) < 1e-10


def shortest(G: Tensor) -> float:
    """|d|^2 of the shortest vector in the hull: the least over all faces whose own optimum lies within them."""
    found = []
    for size in range(1, len(G) + 1):
        for face in map(list, combinations(range(len(G)), size)):
            w = torch.linalg.solve(G[face][:, face], torch.ones(size, dtype=F64))
            if (w > 0).all():
                found.append(float(1 / w.sum()))
    return min(found)


@pytest.mark.parametrize("K", [2, 3, 4, 5])
def test_mgda_is_the_shortest_vector_in_the_hull(K: int) -> None:
    """By the Karush-Kuhn-Tucker conditions <d, d_k> >= |d|^2, and by trying every face."""
    need("mgda")
    for seed in range(5):
        D = random(K, 8, seed=seed) + 0.3
        G, largest = gramian(list(D)), float(D.square().sum(1).max())
        w = weights("mgda", G, SEED, STEP)
        assert float(w.min()) >= 0
        assert float(w.sum()) == pytest.approx(1, abs=1e-12)
        d = w @ D
        assert float((D @ d).min()) >= float(d @ d) - NEAR * largest
        assert float(d @ d) == pytest.approx(shortest(G), abs=NEAR * largest)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_upgrad_harms_no_segment(K: int) -> None:
    need("upgrad")
    harmed_by_the_mean = 0
    for seed in range(5):
        D = conflicting(K, seed=seed)
        d, allowed = combined("upgrad", D), -REGULAR * float(D.square().sum(1).max())
        assert float((D @ d).min()) >= allowed
        harmed_by_the_mean += float((D @ D.mean(0)).min()) < 10 * allowed
    assert harmed_by_the_mean >= 3


def projected(v: Tensor, D: Tensor) -> Tensor:
    """v's nearest point with <., d_k> >= 0 for all k: v less what is along the span of some of them."""
    candidates = [v]
    for size in range(1, len(D) + 1):
        for some in map(list, combinations(range(len(D)), size)):
            A = D[some]
            candidates.append(v - torch.linalg.lstsq(A.T, v.unsqueeze(1)).solution[:, 0] @ A)
    allowed = [c for c in candidates if float((D @ c).min()) > -1e-9]
    return min(allowed, key=lambda c: float((c - v).norm()))


def test_upgrad_is_the_mean_of_projections_on_the_cone_that_harms_nobody() -> None:
    need("upgrad")
    for seed in range(5):
        D = conflicting(3, seed=seed)
        wanted = torch.stack([projected(d_k, D) for d_k in D]).mean(0)
        assert float((combined("upgrad", D) - wanted).norm()) < 5 * REGULAR
        assert float((D.mean(0) - wanted).norm()) > 50 * REGULAR


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e3])
@pytest.mark.parametrize("rule", RULES)
def test_a_common_factor_changes_no_weight(rule: str, scale: float) -> None:
    need(rule)
    for D in (conflicting(4, seed=3), agreeing(4)):
        wanted = weights(rule, gramian(list(D)), SEED, STEP)
        assert relative_error(weights(rule, gramian(list(scale * D)), SEED, STEP), wanted) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_equal_hypergradients_are_averaged(rule: str) -> None:
    need(rule)
    D = random(1, 5, seed=9).repeat(4, 1)
    assert relative_error(combined(rule, D), D[0]) < 1e-6


@pytest.mark.parametrize("rule", ["pcgrad", "upgrad"])
def test_without_conflict_projections_do_nothing(rule: str) -> None:
    need(rule)
    G = gramian(list(agreeing(4)))
    assert relative_error(weights(rule, G, SEED, STEP), torch.full((4,), 0.25, dtype=F64)) < 1e-6


@pytest.mark.parametrize("rule", RULES)
def test_weights_come_in_the_gramians_precision_and_see_directions_in_double(rule: str) -> None:
    need(rule)
    D = conflicting(4, seed=5)
    wanted = weights(rule, gramian(list(D)), SEED, STEP)
    assert wanted.dtype == F64
    found = weights(rule, gramian(list(1e-8 * D.float())), SEED, STEP)
    assert found.dtype == torch.float32
    assert found.shape == (4,)
    assert relative_error(found.double(), wanted) < 1e-3


def test_pcgrads_order_is_a_function_of_seed_and_step_and_of_nothing_else() -> None:
    need("pcgrad")
    G = gramian(list(conflicting(5, seed=1)))
    first = weights("pcgrad", G, SEED, STEP)
    state = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(weights("pcgrad", G, SEED, STEP), first)
        torch.rand(3)
        assert torch.equal(weights("pcgrad", G, SEED, STEP), first)
    assert torch.equal(torch.get_rng_state(), state)
    steps = {tuple(weights("pcgrad", G, SEED, step).tolist()) for step in range(10)}
    seeds = {tuple(weights("pcgrad", G, seed, STEP).tolist()) for seed in range(10)}
    assert min(len(steps), len(seeds)) > 3


def test_torchs_own_generator_is_left_alone() -> None:
    need("pcgrad")
    state = torch.get_rng_state()
    weights("pcgrad", gramian(list(conflicting(4))), SEED, STEP)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("rule", ["pcgrad", "mgda", "upgrad"])
def test_a_missing_library_is_named_before_it_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ValueError, match=rf"--matching\.combine is {rule}, which needs .*pip install .?torchjd"):
        check_rule(rule)
    for other in ("mean", "adaptive"):
        check_rule(other)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_whose_library_is_here_is_accepted(rule: str) -> None:
    need(rule)
    check_rule(rule)
