"""Segments: every start epoch and expert about equally often, and no period."""

import torch

from trajmatch.methods.schedule import Uniform


def test_start_epochs_and_experts_are_uniform_and_independent() -> None:
    chosen = [Uniform(3, 7).choose(2, seed=5, step=step) for step in range(1600)]
    counts = torch.zeros(4, 2)
    for e, t in chosen:
        counts[t - 3, e] += 1
    # 200 expected in each of 8 cells; the 99.99 % quantile of chi-squared with 7 degrees of freedom is 29.9.
    assert float(((counts - 200) ** 2 / 200).sum()) < 29.9


def test_choices_have_no_short_period_and_follow_the_seed() -> None:
    chosen = [Uniform(0, 50).choose(10, seed=5, step=step) for step in range(200)]
    for period in (1, 2, 10, 50, 100):
        assert chosen[:-period] != chosen[period:]
    assert chosen != [Uniform(0, 50).choose(10, seed=6, step=step) for step in range(200)]
