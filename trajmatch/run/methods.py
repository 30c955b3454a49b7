"""The trajectory-matching systems by name: what each sets where the settings leave it open. No torch here.

A method is nothing but these defaults: any of them can be changed by its flag, and any combination is allowed.
"""

from dataclasses import dataclass, replace

from trajmatch.run.config import Config, Matching, Outer

# The share of a run's steps over which FTD's outer average reaches back: 0.9995 over 10,000 steps, as published, is a
# fifth of them.
AVERAGED_SHARE = 0.2


@dataclass(frozen=True)
class Method:
    """What makes a system; the defaults are MTT's.

    sharpness: the ascent's rule, or none. ascent: where its direction comes from. smoothing: its noise (gamma).
    truncated: only the last third of the inner steps is differentiated, and a second trajectory starts where that
    begins. rate, estimator, labels, initial: as the settings of these names. flat: experts trained for flatness.
    averaged: an outer average is delivered. growing: the window of start epochs grows. guarded: steps of a large loss
    change nothing. segments: K. late: only one of them in the first two thirds of the steps. still: the initial
    images are delivered as they are. experts: it needs them. condenses: its steps match no trajectories.
    relative_clip: of the hypergradient's norm.
    """

    sharpness: str = "none"
    ascent: str = "fresh"
    smoothing: float = 0.0
    truncated: bool = False
    rate: str = "exact"
    estimator: str = "adjoint"
    labels: str = "hard"
    initial: str = "real"
    flat: bool = False
    averaged: bool = False
    growing: bool = False
    guarded: bool = False
    segments: int = 1
    late: bool = False
    still: bool = False
    experts: bool = True
    condenses: bool = False
    relative_clip: float = 0.0


MTT = Method()  # exact hypergradient, one segment, hard labels (arXiv 2203.11932)
# Smoothing, ascent, truncation, reuse, closed-form step size (arXiv 2502.01865).
SATM = Method(sharpness="sam", smoothing=0.05, truncated=True, rate="closed-form")
METHODS: dict[str, Method] = {
    "mtt": MTT,
    # Flat experts, with an outer average (arXiv 2211.11004).
    "ftd": replace(MTT, flat=True, averaged=True),
    # The two-pass estimator, labels from an expert (arXiv 2211.10586).
    "tesla": replace(MTT, estimator="tesla", labels="teacher"),
    # Flat experts, a growing window of start epochs, correctly classified images, learned labels (arXiv 2310.05773).
    "datm": replace(MTT, flat=True, labels="learned", initial="correct", growing=True, guarded=True),
    "satm": SATM,
    "satm-fi": replace(SATM, flat=True),
    "satm-da": replace(SATM, labels="learned", initial="correct", growing=True, guarded=True),
    # Concurrent matching: the mean over segments of several start epochs.
    "contra": replace(MTT, segments=4),
    # SATM's ascent and truncation on the combined segments, with learned labels; ours (docs/LOG.md has the trials).
    "satm-contra": replace(SATM, ascent="previous", labels="learned", segments=2, late=True, relative_clip=2.0),
    # Real images, which condensation is compared with.
    "random": Method(still=True, experts=False),
    "herding": Method(initial="herding", still=True),
    "k-center": Method(initial="k-center", still=True),
    # Gradients (arXiv 2006.05929), with augmentation (2102.08259), of leading parts too (2403.06075); mean features
    # (2110.04181).
    "dc": Method(rate="fixed", experts=False, condenses=True),
    "dsa": Method(rate="fixed", experts=False, condenses=True),
    "mdc": Method(rate="fixed", experts=False, condenses=True),
    "dm": Method(rate="fixed", experts=False, condenses=True),
    # The loss on real images through a random window (2311.07025).
    "rat-bptt": Method(truncated=True, experts=False, condenses=True, relative_clip=2.0),
}


def complete(config: Config) -> Config:
    """The configuration with everything filled in that it leaves to its method."""
    method = METHODS[config.method]
    if method.still:
        config = replace(config, steps=0)
    m, o = _matching(config.matching, method, config.steps), _outer(config.outer, method, config.steps)
    o = replace(o, seed=config.seed if o.seed is None else o.seed)
    expert = config.expert
    if expert.flat == "auto":
        expert = replace(expert, flat="yes" if method.flat else "no")
    return replace(config, matching=m, outer=o, expert=expert)


def _matching(m: Matching, method: Method, steps: int) -> Matching:
    iota = m.differentiated_steps
    if iota is None:
        iota = max(1, m.inner_steps // 3) if method.truncated else m.inner_steps
    ascent = method.ascent if m.ascent == "auto" else m.ascent
    # Reuse is SATM's, and there must be something to reuse.
    restart = max(0, m.inner_steps - iota) if method.truncated and ascent == "fresh" else 0
    # "satm" is SAM with smoothing, for any method.
    named = method.sharpness if m.sharpness == "auto" else "sam" if m.sharpness == "satm" else m.sharpness
    noise = SATM.smoothing if m.sharpness == "satm" else method.smoothing if named != "none" else 0.0
    estimator = method.estimator if iota == m.inner_steps else "truncated"
    start, grows = m.window_start, m.window_steps
    if start is None:
        start = m.first_epoch + max(1, (m.last_epoch - m.first_epoch) // 2) if method.growing else m.last_epoch
    return replace(
        m,
        differentiated_steps=iota,
        restart_step=restart if m.restart_step is None else m.restart_step,
        sharpness=named,  # type: ignore[arg-type]
        ascent=ascent,  # type: ignore[arg-type]
        smoothing=noise if m.smoothing is None else m.smoothing,
        rate=method.rate if m.rate == "auto" else m.rate,  # type: ignore[arg-type]
        estimator=estimator if m.estimator == "auto" else m.estimator,  # type: ignore[arg-type]
        window_start=start,
        window_steps=max(1, steps // 10) if grows is None else grows,
        segments=method.segments if m.segments is None else m.segments,
        concurrent_from=(2 * steps // 3 if method.late else 0) if m.concurrent_from is None else m.concurrent_from,
    )


def _outer(o: Outer, method: Method, steps: int) -> Outer:
    average = max(0.0, 1 - 1 / (AVERAGED_SHARE * steps)) if method.averaged else 0.0
    return replace(
        o,
        initial=method.initial if o.initial == "auto" else o.initial,  # type: ignore[arg-type]
        labels=method.labels if o.labels == "auto" else o.labels,  # type: ignore[arg-type]
        ema=average if o.ema is None else o.ema,
        relative_clip=method.relative_clip if o.relative_clip is None else o.relative_clip,
        guard=(1.0 if method.guarded else 0.0) if o.guard is None else o.guard,
    )
