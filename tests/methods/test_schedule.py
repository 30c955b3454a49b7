"""Segments: every start epoch and expert about equally often, no period, strata, and a window that grows."""

from itertools import product

import pytest
import torch

from trajmatch.methods.schedule import Choice, Window


def test_start_epochs_and_experts_are_uniform_and_independent() -> None:
    chosen = [Window(3, 7).choose(2, seed=5, step=step)[0] for step in range(1600)]
    counts = torch.zeros(4, 2)
    for e, t in chosen:
        counts[t - 3, e] += 1
    # 200 expected in each of 8 cells; the 99.99 % quantile of chi-squared with 7 degrees of freedom is 29.9.
    assert float(((counts - 200) ** 2 / 200).sum()) < 29.9


def test_choices_have_no_short_period_and_follow_the_seed() -> None:
    chosen = [Window(0, 50).choose(10, seed=5, step=step) for step in range(200)]
    for period in (1, 2, 10, 50, 100):
        assert chosen[:-period] != chosen[period:]
    assert chosen != [Window(0, 50).choose(10, seed=6, step=step) for step in range(200)]


@pytest.mark.parametrize(("K", "width"), list(product([2, 3, 4, 7], [1, 2, 3, 5, 20])))
def test_concurrent_segments_cover_the_window_evenly(K: int, width: int) -> None:
    window = Window(2, 2 + width)
    counts = torch.zeros(width)
    for step in range(400):
        chosen = window.choose(5, 0, step, K)
        starts = [t for _, t in chosen]
        assert len(starts) == K
        assert starts == sorted(starts)
        assert len(set(starts)) == min(K, width)  # one in each stratum
        assert len({e for e, _ in chosen}) == min(K, 5)
        counts += torch.bincount(torch.tensor(starts) - 2, minlength=width)
    assert counts.min() > 0
    if width % K == 0 or K % width == 0:
        # Each start is expected 400 K / width times; five standard deviations of a binomial count.
        expected = 400 * K / width
        assert float((counts - expected).abs().max()) <= 5 * expected**0.5


def test_one_segment_is_the_plain_choice() -> None:
    assert Window(0, 1).choose(1, 0, 0) == [Choice(0, 0)]
    assert Window(0, 9).choose(4, 3, 8, 1) == Window(0, 9).choose(4, 3, 8)


@pytest.mark.parametrize("K", [1, 2, 3])
def test_continuous_starts_are_uniform_in_their_strata(K: int) -> None:
    window = Window(1, 5, continuous=True)
    chosen = [window.choose(4, 0, step, K) for step in range(600)]
    for k in range(K):
        starts = torch.tensor([one[k].t for one in chosen])
        low, width = 1 + 4 * k / K, 4 / K
        assert low <= float(starts.min()) < float(starts.max()) < low + width
        # Five standard errors of the mean and of the second moment of a uniform number.
        share = (starts - low) / width
        assert abs(float(share.mean()) - 1 / 2) < 5 * (1 / 12 / 600) ** 0.5
        assert abs(float(share.square().mean()) - 1 / 3) < 5 * (4 / 45 / 600) ** 0.5
    # The experts are those of whole start epochs, and a window that grows is as wide.
    assert [[e for e, _ in one] for one in chosen] == [
        [e for e, _ in Window(1, 5).choose(4, 0, step, K)] for step in range(600)
    ]
    early = Window(0, 40, start=2, grows=1000, continuous=True)
    assert max(t for step in range(20) for _, t in early.choose(4, 0, step, K)) < 2


def test_a_growing_window_by_hand() -> None:
    window = Window(1, 21, start=11, grows=1000)
    assert [window.upper(step) for step in (0, 99, 100, 550, 999, 1000, 5000)] == [11, 11, 12, 16, 20, 21, 21]
    late = [t for step in range(300) for _, t in window.choose(3, 0, step)]
    assert (min(late), max(late)) == (1, 12)
    # A window that starts at its end, or has no time to grow, is the fixed one.
    for fixed in (Window(1, 21, start=21, grows=7), Window(1, 21, start=3, grows=0)):
        assert all(fixed.choose(3, 0, step) == Window(1, 21).choose(3, 0, step) for step in range(50))


def test_segments_are_concurrent_from_a_step_on() -> None:
    window = Window(0, 4, segments=3, since=5)
    assert [window.concurrent(step) for step in (0, 4, 5, 100)] == [1, 1, 3, 3]
    assert [Window(0, 4, segments=2).concurrent(step) for step in (0, 7)] == [2, 2]
    assert [Window(0, 4).concurrent(step) for step in (0, 7)] == [1, 1]
