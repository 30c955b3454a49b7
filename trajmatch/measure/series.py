"""Statistics of a quantity over outer steps, and of a cost over sizes."""

from collections.abc import Sequence
from math import log
from statistics import fmean, linear_regression, median, pvariance
from typing import NamedTuple

SPIKE = 3.0


class Series(NamedTuple):
    """Statistics of positive values.

    mean:      their mean.
    variance:  their population variance.
    deviation: the standard deviation over the mean.
    spikes:    the share of values above SPIKE times the median.
    largest:   the largest value over the median.
    """

    mean: float
    variance: float
    deviation: float
    spikes: float
    largest: float


def describe(values: Sequence[float]) -> Series:
    """The statistics of some positive values.

    >>> describe([1.0, 1.0, 1.0, 5.0]).spikes
    0.25
    """
    middle, mean, variance = median(values), fmean(values), pvariance(values)
    spikes = sum(value > SPIKE * middle for value in values) / len(values)
    return Series(mean, variance, variance**0.5 / mean, spikes, max(values) / middle)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent `p` of `cost ~ size^p`: the slope of a least-squares line through the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return linear_regression([log(size) for size in sizes], [log(cost) for cost in costs]).slope
