"""Which settings have no effect, by verb and by what else was chosen. No torch here.

One rule holds for all: a flag that changes a setting which nothing heeds is said in a line, and the command goes on,
for commands are often repeated with another verb or method. Refused is what would surely mislead: a setting that a
method replaces by one of its own (`checks.check_heeded`), a part of the experts where all are needed, and a flag of
another verb.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS, Method, complete
from trajmatch.settings.ranges import is_count

SHARPNESS = "--matching.sharpness {c.matching.sharpness}"


class Heeded(NamedTuple):
    """Settings, when they have an effect, and what makes them have none.

    patterns: names of settings, parted by spaces; * stands for any letters.
    where:    (configuration, its method) -> whether the settings have an effect.
    without:  what takes the effect away, in words after "with"; {c} is the configuration.
    but:      patterns of settings that the row leaves out.
    """

    patterns: str
    where: Callable[[Config, Method], bool]
    without: str = "--method {c.method}"
    but: str = ""


# Of a completed configuration; the first row that takes a setting's effect away is told.
RULES = (
    Heeded("network.*", lambda c, m: c.network.name == "convnet", "--network.name {c.network.name}",
           but="network.name"),
    Heeded("experts expert.*", lambda c, m: m.experts, but="expert.lr expert.batch expert.augment"),
    Heeded("expert.lr expert.batch expert.augment", lambda c, m: m.experts or c.evaluation.whole_epochs is not None),
    Heeded("expert.flat_*", lambda c, m: c.expert.flat == "yes", "--expert.flat no"),
    Heeded("steps precision micro_batch memory matching.* outer.*", lambda c, m: not m.still,
           but="outer.seed outer.initial outer.labels outer.step_size outer.threads outer.checkpoint_seconds"),
    Heeded("matching.*", lambda c, m: m.steps != "condensation", but="matching.augment"),
    Heeded("matching.augment", lambda c, m: m.augments),
    Heeded("matching.*", lambda c, m: m.steps != "real loss",
           but="matching.inner_steps matching.differentiated_steps matching.batch matching.augment matching.rate "
           "matching.keep_every"),
    Heeded("baseline.*", lambda c, m: m.condenses or m.through_training),
    Heeded("baseline.updates baseline.epochs baseline.lr", lambda c, m: m.trains_networks),
    Heeded("baseline.window* baseline.inner* baseline.differentiated_steps baseline.students baseline.oldest "
           "baseline.augment baseline.rate",
           lambda c, m: m.through_training),
    Heeded("baseline.oldest", lambda c, m: bool(c.baseline.students), "--baseline.students 0"),
    Heeded("baseline.since baseline.rate_factor", lambda c, m: m.matches and m.through_training),
    Heeded("baseline.window_*", lambda c, m: c.baseline.window == "adaptive", "--baseline.window {c.baseline.window}"),
    Heeded("baseline.inner_momentum", lambda c, m: c.baseline.inner == "momentum",
           "--baseline.inner {c.baseline.inner}"),
    Heeded("baseline.rate baseline.rate_factor", lambda c, m: c.baseline.inner != "adam",
           "--baseline.inner adam, whose rate is fixed"),
    Heeded("baseline.inner_lr", lambda c, m: c.baseline.inner == "adam", "--baseline.inner {c.baseline.inner}"),
    Heeded("matching.rate outer.lr_step_size outer.momentum_step_size",
           lambda c, m: c.baseline.inner != "adam" or m.steps != "real loss",
           "--baseline.inner adam, whose rate is fixed"),
    Heeded("matching.radius matching.smoothing matching.ascent", lambda c, m: c.matching.sharpness != "none",
           SHARPNESS),
    Heeded("matching.asam_offset", lambda c, m: c.matching.sharpness == "asam", SHARPNESS),
    Heeded("matching.gsam_alpha", lambda c, m: c.matching.sharpness == "gsam", SHARPNESS),
    Heeded("matching.vasso_decay", lambda c, m: c.matching.sharpness == "vasso", SHARPNESS),
    Heeded("matching.combine matching.together matching.concurrent_from", lambda c, m: c.matching.segments != 1,
           "--matching.segments 1"),
    Heeded("matching.waypoints", lambda c, m: c.matching.path == "straight", "--matching.path {c.matching.path}"),
    Heeded("matching.window_steps", lambda c, m: c.matching.window_start != c.matching.last_epoch,
           "a window that does not grow, whose --matching.window-start is --matching.last-epoch"),
    Heeded("matching.keep_every", lambda c, m: c.matching.estimator != "unrolled",
           "--matching.estimator {c.matching.estimator}"),
    Heeded("outer.lr_labels outer.momentum_labels", lambda c, m: c.outer.labels == "learned",
           "--outer.labels {c.outer.labels}"),
    Heeded("outer.momentum", lambda c, m: m.steps != "real loss", "--method {c.method}, whose optimiser is Adam"),
    Heeded("outer.momentum", lambda c, m: m.condenses or c.outer.optimiser != "adam", "--outer.optimiser adam"),
    Heeded("outer.lr_step_size outer.momentum_step_size outer.image_norm", lambda c, m: m.steps != "condensation"),
    Heeded("outer.lr_step_size outer.momentum_step_size baseline.rate", lambda c, m: c.matching.rate != "fixed",
           "--matching.rate fixed"),
    Heeded("outer.lr_step_size outer.momentum_step_size",
           lambda c, m: c.baseline.rate != "fixed" or m.steps != "real loss", "--baseline.rate fixed"),
    Heeded("evaluation.momentum", lambda c, m: c.evaluation.recipe != "adamw", "--evaluation.recipe adamw"),
    Heeded("deterministic", lambda c, m: c.device != "cpu", "--device cpu"),
    Heeded("memory", lambda c, m: c.micro_batch is None, "--micro-batch, which goes before it"),
)  # fmt: skip
# What a verb does not do; a run does all of it.
NOT_DONE = {
    "experts": "ipc factor method steps precision micro_batch memory resume log matching.* outer.[!c]* outer.clip "
    "baseline.* evaluation.*",
    "evaluate": "out factor steps precision micro_batch memory resume log matching.* outer.[!s]* outer.seed "
    "outer.step_size baseline.*",
    "search": "out factor steps precision micro_batch memory resume log matching.* outer.* baseline.* network.* "
    "evaluation.networks evaluation.random_draws evaluation.validation_networks evaluation.whole_epochs "
    "evaluation.foreign",
    "continual": "resume log outer.snapshot* evaluation.networks evaluation.random_draws "
    "evaluation.validation_networks evaluation.whole_epochs evaluation.foreign evaluation.workers",
    "plan": "resume log",
}
# Verbs that distil nothing: the settings of a distillation have no effect with them, or are those of a set that exists.
DONE = ("evaluate", "search", "experts")


def idle(verb: str, config: Config, options: Any, keys: Sequence[str]) -> dict[str, list[str]]:
    """The settings that have no effect, of those that are named in `keys`, by the reason."""
    full, found = complete(config), defaultdict[str, list[str]](list)
    for key in keys:
        reason = _of_verb(verb, options, key) or _of_settings(verb, full, options, key)
        if reason is not None:
            found[reason].append(key)
    return dict(found)


def _of_verb(verb: str, options: Any, key: str) -> str | None:
    if _is_any(key, NOT_DONE.get(verb, "")):
        return f"trajmatch {verb}"
    if verb == "evaluate":
        beside = [name for name in ("networks", "sizes", "ranking") if getattr(options, name)]
        alone = "evaluation.random_draws evaluation.validation_networks evaluation.foreign"
        if beside and _is_any(key, alone if beside == ["ranking"] else f"{alone} evaluation.whole_epochs"):
            return f"--{beside[0]}"
    return None


def _of_settings(verb: str, full: Config, options: Any, key: str) -> str | None:
    if verb == "evaluate" and key.startswith("network.") and getattr(options, "networks", None):
        return None
    ranked = getattr(options, "ranking", False)  # which refuses a number itself: it needs some
    if verb in ("evaluate", "search") and key == "experts" and is_count(full.experts) and not ranked:
        return f"trajmatch {verb}, which trains none"
    if verb in DONE and not key.startswith(("network.", "expert.flat_", "evaluation.")):
        return None
    method = METHODS[full.method]
    of_it = (row for row in RULES if _is_any(key, row.patterns) and not _is_any(key, row.but))
    return next((row.without.format(c=full) for row in of_it if not row.where(full, method)), None)


def _is_any(key: str, patterns: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns.split())
