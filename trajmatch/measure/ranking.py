"""DD-Ranking's scores, on accuracies in [0, 1] (arXiv 2505.13300): what of an accuracy is the images' own.

Gains from soft labels and from augmentation are told apart from gains from the images, by comparing with random real
images under the same evaluation.
"""

from math import e, exp


def hard_label_recovery(real: float, synthetic: float) -> float:
    """HLR: accuracy of the whole real set less that of the synthetic one, both with hard labels; lower is better."""
    return real - synthetic


def improvement_over_random(synthetic: float, random: float) -> float:
    """IOR: accuracy of the synthetic set less that of as many random real images, both as the method evaluates."""
    return synthetic - random


def label_robust_score(recovery: float, improvement: float, weight: float = 0.5) -> float:
    """LRS, the normalised `alpha = w IOR - (1 - w) HLR`; w is `weight`."""
    return normalised(weight * improvement - (1 - weight) * recovery)


def augmentation_robust_score(augmented: float, plain: float, weight: float = 0.5) -> float:
    """ARS, the normalised `beta = w augmented + (1 - w) plain`; w is `weight`.

    augmented, plain: gain over random images with augmentation, and without.
    """
    return normalised(weight * augmented + (1 - weight) * plain)


def normalised(value: float) -> float:
    """From [-1, 1] to [0, 1]: (exp v - exp -1) / (e - exp -1); a set that is worth as much as random images has 0.27.

    >>> normalised(-1.0), normalised(1.0), round(normalised(0.0), 3)
    (0.0, 1.0, 0.269)
    """
    return (exp(value) - 1 / e) / (e - 1 / e)
