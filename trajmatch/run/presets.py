"""Presets: one function per setting, each number marked with where it comes from. No torch here."""

from collections.abc import Callable
from difflib import get_close_matches

from trajmatch.run.config import Config, Evaluation, Expert, Images, Matching, Network, Outer


def digits_ipc1() -> Config:
    """The embedded 8 x 8 digits, one image per class: about two minutes on two cores. Every number is ours."""
    return Config(
        data="digits", ipc=1, steps=250, experts="10",
        images=Images(normalise="channel", validation=0.1),
        network=Network(depth=2, width=32),
        expert=Expert(epochs=12, lr=0.03, batch=64, augment="none"),
        matching=Matching(inner_steps=30, expert_epochs=4, last_epoch=4, augment="none"),
        outer=Outer(step_size=0.03, lr_images=30.0, lr_step_size=0.02),
        evaluation=Evaluation(networks=5, epochs=300, augment="none"),
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "digits-ipc1": digits_ipc1,
}
DEFAULT = "digits-ipc1"


def preset(name: str) -> Config:
    """The configuration of a preset. Raises ValueError with suggestions for a name that is none."""
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PRESETS)}"
        raise ValueError(f"'{name}' is not a preset; {hint}")
    return PRESETS[name]()
