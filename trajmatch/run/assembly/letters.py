"""Words to letters: the rules of the mathematics that a configuration names."""

from typing import cast

from trajmatch.core.augment import families
from trajmatch.core.descent import Adam, Momentum
from trajmatch.core.sharpness import ASAM, GSAM, SAM, Ascent, FlatGSAM, Sharpness, VaSSO
from trajmatch.machine.own_code import imported
from trajmatch.methods.outer import Rule
from trajmatch.methods.schedule import Window
from trajmatch.methods.training import AdamWTraining, Training
from trajmatch.settings.config import Config


def expert_training(config: Config) -> Training:
    """How experts are trained."""
    e = config.expert
    flat = FlatGSAM(e.flat_radius, e.flat_alpha) if e.flat == "yes" else None
    return Training(
        e.lr, e.epochs, e.batch, e.momentum, e.weight_decay, families(e.augment, "--expert.augment"), sharpness=flat
    )


# The learning rate of the recipe adamw.
ADAMW_RATE = 1e-3


def evaluation_rate(config: Config, step_size: float) -> float:
    """The learning rate at which a set is scored where no other is asked for: the learned step size, or AdamW's."""
    return ADAMW_RATE if config.evaluation.recipe == "adamw" else step_size


def evaluation_training(config: Config, rate: float) -> Training:
    """How networks are trained on a synthetic set: by a published recipe, at a learning rate."""
    e = config.evaluation
    assert e.epochs is not None, "resolve() has filled it in"
    seen = families(e.augment, "--evaluation.augment")
    if e.recipe == "adamw":
        return AdamWTraining(rate, e.epochs, e.batch, weight_decay=e.weight_decay, families=seen)
    return Training(rate, e.epochs, e.batch, e.momentum, e.weight_decay, seen, lr_drop=0.5)


def schedule(config: Config) -> Window:
    """Which segments are matched."""
    m = config.matching
    window = m.first_epoch, m.last_epoch, m.window_start, m.window_steps or 0
    return Window(*window, m.segments or 1, m.concurrent_from or 0, m.path == "straight")


def _sharpness(config: Config) -> Sharpness | None:
    m = config.matching
    rules: dict[str, Sharpness | None] = {
        "none": None,
        "sam": SAM(m.radius),
        "asam": ASAM(m.radius, m.asam_offset),
        "gsam": GSAM(m.radius, m.gsam_alpha),
        "vasso": VaSSO(m.radius, m.vasso_decay),
    }
    return own_rule(m.sharpness, m.radius) if ":" in m.sharpness else rules[m.sharpness]


def own_rule(name: str, radius: float) -> Sharpness:
    """The rule of the user's that MODULE:NAME stands for. Raises ValueError for what is none."""
    asked = f"--matching.sharpness is {name}"
    found = imported(asked, name, "MODULE:NAME, such as rules:mine")
    if callable(getattr(found, "perturbation", None)) and callable(getattr(found, "direction", None)):
        return cast(Sharpness, found() if isinstance(found, type) else found)
    if not callable(found):
        raise ValueError(
            f"{asked}, which is of type {type(found).__name__} and must be a function (d, X, rho) -> eps, or have "
            "`perturbation` and `direction` as the rules of core/sharpness.py have"
        )
    return Ascent(radius, found)


def rule(config: Config) -> Rule:
    """The outer step of a resolved configuration."""
    m, o = config.matching, config.outer
    assert m.differentiated_steps is not None, "resolve() has filled it in"
    assert m.restart_step is not None
    assert m.smoothing is not None
    return Rule(
        T=m.inner_steps,
        iota=m.differentiated_steps,
        images=Momentum(o.lr_images, o.momentum) if o.optimiser == "sgd" else Adam(o.lr_images),
        rate=Momentum(0.0 if m.rate == "fixed" else o.lr_step_size, o.momentum_step_size),
        batch=m.batch,
        families=families(m.augment, "--matching.augment"),
        sharpness=_sharpness(config),
        stale=m.ascent == "previous" and m.sharpness != "none",
        gamma=m.smoothing,
        tau=m.restart_step,
        second_order_rate=m.rate == "exact",
        clip=o.clip,
        relative_clip=o.relative_clip or None,
        ema=o.ema or None,
        estimator="tesla-halved" if m.halved else m.estimator,
        interval=m.keep_every,
        combining=m.combine,
        labels="fixed" if o.labels == "hard" else o.labels,
        label=Momentum(o.lr_labels, o.momentum_labels),
        guard=o.guard or None,
        early=m.early_stop,
        alpha=m.masked_share,
        norm=o.image_norm or None,
        factor=config.factor,
    )
