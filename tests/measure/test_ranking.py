"""DD-Ranking's scores by their definitions."""

import math

import pytest

from trajmatch.measure import ranking


def test_scores_of_a_set_worked_by_hand() -> None:
    recovery = ranking.hard_label_recovery(0.8, 0.5)
    improvement = ranking.improvement_over_random(0.55, 0.25)
    assert (recovery, improvement) == (pytest.approx(0.3), pytest.approx(0.3))
    assert ranking.label_robust_score(recovery, improvement) == pytest.approx(
        (1 - math.exp(-1)) / (math.e - math.exp(-1))
    )
    alpha = 0.9 * 0.3 - 0.1 * 0.3
    wanted = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert ranking.label_robust_score(recovery, improvement, 0.9) == pytest.approx(wanted)
    beta = 0.5 * 0.3 + 0.5 * 0.1
    wanted = (math.exp(beta) - math.exp(-1)) / (math.e - math.exp(-1))
    assert ranking.augmentation_robust_score(0.3, 0.1) == pytest.approx(wanted)
    assert ranking.augmentation_robust_score(0.3, 0.1, 1.0) == pytest.approx(ranking.normalised(0.3))


def test_better_sets_score_higher() -> None:
    assert ranking.label_robust_score(0.2, 0.3) > ranking.label_robust_score(0.3, 0.3)
    assert ranking.label_robust_score(0.3, 0.4) > ranking.label_robust_score(0.3, 0.3)
    assert ranking.augmentation_robust_score(0.3, 0.2) > ranking.augmentation_robust_score(0.3, 0.1)
