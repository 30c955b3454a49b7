"""The diagnoses by name, and what each of them can be asked. No torch here."""

from difflib import get_close_matches

from trajmatch.settings.kinds import checked
from trajmatch.settings.options import Diagnose

NAMES = {
    "correlation": "cosines between the hypergradients of segments that start at different epochs",
    "interference": "change of a segment's loss after an outer step on another one alone",
    "forgetting": "loss of a fixed panel of segments over the distillation",
    "accumulated-error": "error of a student that is never reset to the expert, in its two parts",
    "hypergradient-norm": "norm of the hypergradient over the steps, its spikes, and the sharpness of the loss",
    "truncation": "accuracy and error of the hypergradient by how many inner steps are differentiated",
    "learning-rate": "the step size's path under the closed form and under the exact derivative",
    "cost": "seconds and peak memory of every estimator as T, mini-batch and width grow",
    "landscape": "the matching loss over a plane of images around the set",
    "nearest": "the nearest real training image of each synthetic one, and how far it is",
}
# These diagnoses look at images alone.
WITHOUT_EXPERTS = {"nearest"}


def check(name: str, options: Diagnose) -> None:
    """Raise ValueError for an unknown name or an option that is out of range."""
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise ValueError(f"'{name}' is not a diagnosis; {hint}")
    if bool(options.run) == (options.set is not None):
        raise ValueError("name what is to be looked at: --run with one or more run folders, or --set with --experts")
    if options.set is not None and options.experts is None and name not in WITHOUT_EXPERTS:
        raise ValueError("--set needs --experts, a folder of experts to match it against")
    checked(options)
