"""Which settings have no effect, by verb and by what else was chosen. No torch here.

One rule for all: a flag that changes a setting which nothing heeds is said in a line, and the command goes on, for
commands are often repeated with another verb or method. Refused is what would surely mislead: what a method replaces
by a setting of its own (`settings.check_heeded`), a part of the experts where all are needed, and what another verb
does.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS, Method, complete


class Idle(NamedTuple):
    """Settings by pattern, what makes them have no effect, in words after "with", and the settings to leave out."""

    patterns: str
    reason: Callable[[Config, Method], str | None]
    but: str = ""


def _where(condition: bool, reason: str) -> str | None:
    return reason if condition else None


def _sharpness(c: Config, rule: str) -> str | None:
    return _where(c.matching.sharpness != rule, f"--matching.sharpness {c.matching.sharpness}")


# Of a completed configuration; the first reason that holds is told.
RULES = (
    Idle("network.*", lambda c, m: _where(c.network.name != "convnet", f"--network.name {c.network.name}"),
         but="network.name"),
    Idle("experts expert.*", lambda c, m: _where(not m.experts, f"--method {c.method}"),
         but="expert.lr expert.batch expert.augment"),
    Idle("expert.lr expert.batch expert.augment",
         lambda c, m: _where(not m.experts and c.evaluation.whole_epochs is None, f"--method {c.method}")),
    Idle("expert.flat_*", lambda c, m: _where(c.expert.flat != "yes", "--expert.flat no")),
    Idle("steps precision micro_batch memory matching.* outer.*", lambda c, m: _where(m.still, f"--method {c.method}"),
         but="outer.seed outer.initial outer.labels outer.step_size outer.threads"),
    Idle("matching.*", lambda c, m: _where(m.condenses and c.method != "rat-bptt", f"--method {c.method}"),
         but="matching.augment"),
    Idle("matching.augment", lambda c, m: _where(c.method == "dc", f"--method {c.method}")),
    Idle("matching.*", lambda c, m: _where(c.method == "rat-bptt", f"--method {c.method}"),
         but="matching.inner_steps matching.differentiated_steps matching.batch matching.augment matching.rate"),
    Idle("baseline.*", lambda c, m: _where(not m.condenses, f"--method {c.method}")),
    Idle("baseline.updates baseline.epochs baseline.lr",
         lambda c, m: _where(c.method not in ("dc", "dsa", "mdc"), f"--method {c.method}")),
    Idle("baseline.window*", lambda c, m: _where(c.method != "rat-bptt", f"--method {c.method}")),
    Idle("baseline.window_radius", lambda c, m: _where(c.baseline.window != "adaptive", "--baseline.window random")),
    Idle("matching.radius matching.smoothing matching.ascent",
         lambda c, m: _where(c.matching.sharpness == "none", "--matching.sharpness none")),
    Idle("matching.asam_offset", lambda c, m: _sharpness(c, "asam")),
    Idle("matching.gsam_alpha", lambda c, m: _sharpness(c, "gsam")),
    Idle("matching.vasso_decay", lambda c, m: _sharpness(c, "vasso")),
    Idle("matching.combine matching.together matching.concurrent_from",
         lambda c, m: _where(c.matching.segments == 1, "--matching.segments 1")),
    Idle("matching.window_steps",
         lambda c, m: _where(c.matching.window_start == c.matching.last_epoch,
                             "a window that does not grow, whose --matching.window-start is --matching.last-epoch")),
    Idle("matching.keep_every",
         lambda c, m: _where(c.matching.estimator not in ("adjoint", "truncated"),
                             f"--matching.estimator {c.matching.estimator}")),
    Idle("outer.lr_labels outer.momentum_labels",
         lambda c, m: _where(c.outer.labels != "learned", f"--outer.labels {c.outer.labels}")),
    Idle("outer.momentum", lambda c, m: _where(c.method == "rat-bptt", "--method rat-bptt, whose optimiser is Adam")),
    Idle("outer.momentum",
         lambda c, m: _where(not m.condenses and c.outer.optimiser == "adam", "--outer.optimiser adam")),
    Idle("outer.lr_step_size outer.momentum_step_size",
         lambda c, m: _where(m.condenses and c.method != "rat-bptt", f"--method {c.method}")),
    Idle("outer.lr_step_size outer.momentum_step_size",
         lambda c, m: _where(c.matching.rate == "fixed", "--matching.rate fixed")),
    Idle("deterministic", lambda c, m: _where(c.device == "cpu", "--device cpu")),
    Idle("memory", lambda c, m: _where(c.micro_batch is not None, "--micro-batch, which goes before it")),
)  # fmt: skip
# What a verb does not do; a run does all of it.
NOT_DONE = {
    "experts": "ipc method steps precision micro_batch memory resume matching.* outer.* baseline.* evaluation.*",
    "evaluate": "out steps precision micro_batch memory resume matching.* outer.[!s]* outer.seed outer.step_size "
    "baseline.*",
    "search": "out steps precision micro_batch memory resume matching.* outer.* baseline.* network.* "
    "evaluation.networks evaluation.random_draws evaluation.validation_networks evaluation.whole_epochs",
    "continual": "resume outer.snapshot* evaluation.networks evaluation.random_draws evaluation.validation_networks "
    "evaluation.whole_epochs evaluation.workers",
    "plan": "resume",
}
# Of these verbs the settings of a distillation are those of a set that there is, which nothing here changes.
DONE = ("evaluate", "search", "experts")


def idle(verb: str, config: Config, options: Any, keys: Sequence[str]) -> dict[str, list[str]]:
    """Of some settings those that have no effect, by the reason."""
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
        alone = "evaluation.random_draws evaluation.validation_networks"
        if beside and _is_any(key, alone if beside == ["ranking"] else f"{alone} evaluation.whole_epochs"):
            return f"--{beside[0]}"
    return None


def _of_settings(verb: str, full: Config, options: Any, key: str) -> str | None:
    if verb == "evaluate" and key.startswith("network.") and getattr(options, "networks", None):
        return None
    if verb in DONE and not key.startswith(("network.", "expert.flat_")):
        return None
    method = METHODS[full.method]
    for rule in RULES:
        if (
            _is_any(key, rule.patterns)
            and not _is_any(key, rule.but)
            and (reason := rule.reason(full, method)) is not None
        ):
            return reason
    return None


def _is_any(key: str, patterns: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns.split())
