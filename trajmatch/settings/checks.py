"""Refuses settings that are out of range, and combinations of settings that mean nothing. No torch here."""

from trajmatch.settings.config import Config, Matching
from trajmatch.settings.kinds import checked, flag
from trajmatch.settings.methods import METHODS, Method, complete


def resolve(config: Config) -> Config:
    """Fill in what depends on the method and check what can be checked without data.

    Raises ValueError: one sentence with the flag, the value and what would be right.
    """
    config = complete(checked(config))
    check(config)
    return config


def check(config: Config) -> None:
    """Raise ValueError for the first setting that is out of range, in a sentence that says what would be right."""
    checked(config)
    if config.steps < 1 and not METHODS[config.method].still:
        raise ValueError(f"--steps is {config.steps} and must be at least 1")
    beyond = [step for step in config.outer.snapshot_at if step > config.steps]
    if beyond and not METHODS[config.method].still:
        raise ValueError(f"--outer.snapshot-at has {beyond[0]} and must be at most the {config.steps} of --steps")
    if 0 < (config.outer.relative_clip or 0) <= 1:  # the mean of clipped norms could never grow again
        raise ValueError(f"--outer.relative-clip is {config.outer.relative_clip} and must be above 1, or 0 not to clip")
    _check_without_experts(config)
    _check_steps(config.matching)
    _check_estimator(config.matching)
    if config.matching.mixed == "central-difference" and config.precision in ("bf16", "bf16-sweep"):
        raise ValueError(
            f"--precision is {config.precision}, in which --matching.mixed central-difference is noise: its steps are "
            "smaller than bfloat16 resolves; leave one of them out"
        )
    _check_epochs(config)


def _check_steps(m: Matching) -> None:
    """Refuse inner steps that are differentiated, or from which a trajectory starts, where there are none."""
    assert m.differentiated_steps is not None, "resolve() has filled it in"
    assert m.restart_step is not None
    if m.differentiated_steps > m.inner_steps:
        raise ValueError(
            f"--matching.differentiated-steps is {m.differentiated_steps} and must be at most the "
            f"{m.inner_steps} of --matching.inner-steps"
        )
    if m.restart_step and m.ascent == "previous":
        raise ValueError(
            f"--matching.restart-step is {m.restart_step} and must be 0 or left out: with --matching.ascent previous "
            "there is no second trajectory to start there"
        )
    if m.restart_step >= m.inner_steps:
        raise ValueError(
            f"--matching.restart-step is {m.restart_step} and must be below the {m.inner_steps} of "
            "--matching.inner-steps"
        )


def _check_epochs(config: Config) -> None:
    """Refuse segments that no expert of this configuration has."""
    m = config.matching
    if m.last_epoch <= m.first_epoch:
        raise ValueError(
            f"--matching.last-epoch is {m.last_epoch} and must be above --matching.first-epoch, {m.first_epoch}"
        )
    _check_window(m)
    needed = needed_snapshots(m)
    if config.expert.save_every is None and needed > config.expert.epochs:
        between = " anywhere" if m.path == "straight" else ""
        raise ValueError(
            f"--expert.epochs is {config.expert.epochs} and must be at least {needed}: segments start{between} before "
            f"epoch {m.last_epoch} (--matching.last-epoch) and take {m.expert_epochs} (--matching.expert-epochs)"
        )


def needed_snapshots(m: Matching) -> int:
    """The number of the last snapshot that an expert must have.

    A segment on a straight path may start between T+ - 1 and T+, and is cut where the path ends: by less than a whole
    one, so that only one of M = 1 could be left with nothing.
    """
    return m.last_epoch - 1 + m.expert_epochs + (m.path == "straight" and m.expert_epochs == 1)


def _check_without_experts(config: Config) -> None:
    """Refuse settings that need experts where the method has none, and those that a condensing method does not heed."""
    method = METHODS[config.method]
    if not method.experts:
        if config.outer.labels != "hard":
            raise ValueError(f"--outer.labels is {config.outer.labels} and must be hard with --method {config.method}")
        if config.outer.initial not in ("real", "noise"):
            raise ValueError(
                f"--outer.initial is {config.outer.initial}, which needs experts, and must be real or noise with "
                f"--method {config.method}"
            )
    if config.baseline.inner != "sgd" and not method.through_training:
        raise ValueError(
            f"--baseline.inner is {config.baseline.inner}, which is for rat-bptt, at-bptt and satm-bptt: the steps of "
            f"--method {config.method} have plain SGD inside; leave it out"
        )
    _check_through_training(config, method)
    if method.condenses or method.through_training:
        in_parts = method.through_training
        for name, value, plain in (
            ("--precision", config.precision, "float32"),
            ("--micro-batch", None if in_parts else config.micro_batch, None),
            ("--memory", None if in_parts else config.memory, None),
        ):
            if value != plain:
                raise ValueError(f"{name} is {value} and has no effect with --method {config.method}: leave it out")


def _check_through_training(config: Config, method: Method) -> None:
    """Refuse a training whose loss on real images can't be differentiated as asked for."""
    b = config.baseline
    if not method.through_training:
        return
    T = b.inner_steps or config.matching.inner_steps
    group = "matching" if b.differentiated_steps is None else "baseline"
    iota = b.differentiated_steps or config.matching.differentiated_steps or 1
    if iota > T:
        name = "matching" if b.inner_steps is None else "baseline"
        raise ValueError(
            f"--{group}.differentiated-steps is {iota} and must be at most the {T} of --{name}.inner-steps"
        )
    if b.students and (b.inner == "adam" or b.window == "adaptive"):
        wrong = "--baseline.inner adam" if b.inner == "adam" else "--baseline.window adaptive"
        raise ValueError(f"--baseline.students is {b.students} and must be 0 with {wrong}, which needs new networks")
    if not method.matches and config.matching.rate == "closed-form":
        raise ValueError(
            f"--matching.rate is closed-form, which is of matched segments, and must be exact or fixed with --method "
            f"{config.method}"
        )
    if b.since is not None and b.since > config.steps:
        raise ValueError(f"--baseline.since is {b.since} and must be at most --steps, {config.steps}")


def check_heeded(base: Config, config: Config) -> None:
    """Refuse settings of the images' optimiser that are not the preset's and that a condensing method does not heed."""
    method = METHODS[config.method]
    if not method.condenses:
        return
    names = ["lr_images", "optimiser", "guard"]
    names += ["ema", "clip", "relative_clip", "image_norm"] if method.steps == "condensation" else []
    for name in names:
        value = getattr(config.outer, name)
        if value != getattr(base.outer, name):
            instead = "give --baseline.lr-images" if name == "lr_images" else "leave it out"
            raise ValueError(
                f"{flag(f'outer.{name}')} is {value} and has no effect with --method {config.method}: {instead}"
            )


def _check_window(m: Matching) -> None:
    """Refuse a window of start epochs that is empty at first, or shrinks."""
    assert m.window_start is not None, "resolve() has filled it in"
    if not m.first_epoch < m.window_start <= m.last_epoch:
        raise ValueError(
            f"--matching.window-start is {m.window_start} and must be above --matching.first-epoch, {m.first_epoch}, "
            f"and at most --matching.last-epoch, {m.last_epoch}"
        )


def _check_estimator(m: Matching) -> None:
    """Refuse combinations of estimator, truncation and reuse that mean nothing."""
    if m.estimator in ("adjoint", "unrolled", "tesla") and m.differentiated_steps != m.inner_steps:
        raise ValueError(
            f"--matching.estimator is {m.estimator}, which differentiates all {m.inner_steps} inner steps, and "
            f"--matching.differentiated-steps is {m.differentiated_steps}: leave one of them out"
        )
    if m.early_stop and (m.estimator == "random-window" or m.together == "yes"):
        other = (
            "estimator random-window, which draws" if m.estimator == "random-window" else "together yes, which needs"
        )
        raise ValueError(
            f"--matching.early-stop chooses where a trajectory ends, and --matching.{other} one end of its own: leave "
            "one of them out"
        )
    if m.halved and m.estimator != "tesla":
        raise ValueError(f"--matching.halved belongs to --matching.estimator tesla, which is {m.estimator} here")
    if m.estimator == "random-window" and m.restart_step:
        raise ValueError(
            f"--matching.restart-step is {m.restart_step} and must be 0 with --matching.estimator random-window, whose "
            "trajectory may end before it"
        )
    if m.together == "yes" and (m.estimator == "unrolled" or m.mixed != "reverse-over-reverse"):
        raise ValueError(
            f"--matching.together is yes, and --matching.estimator {m.estimator} with --matching.mixed {m.mixed} takes "
            "segments one by one: leave it out"
        )
    if m.estimator in ("unrolled", "tesla") and m.mixed != "reverse-over-reverse":
        raise ValueError(
            f"--matching.mixed is {m.mixed} and has no effect with --matching.estimator {m.estimator}: leave it out"
        )
