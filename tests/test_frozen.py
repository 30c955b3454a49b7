"""Texts that digests are made of, and draws: where one changes, what lies on disks is no longer found, or is others.

The digest of a trained network is held by tests/run/stages/test_trials.py.
"""

import ast
import json
from hashlib import blake2b
from pathlib import Path

import pytest

from trajmatch.core.draws import derive
from trajmatch.core.sharpness import ASAM, GSAM, SAM, FlatGSAM, VaSSO
from trajmatch.methods.training import AdamWTraining, Training
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config
from trajmatch.settings.flat import DISTILL_FIELDS, EVALUATE_FIELDS, EXPERT_FIELDS, settings
from trajmatch.settings.inputs import Network

PACKAGE = Path(__file__).parents[1] / "trajmatch"
# The settings that experts and runs have been compared by, so far. A new one may be added, whose default leaves what
# there is as it was; none of these may be renamed, or get another default.
NAMES = {
    "": "ipc method steps seed precision",
    "images": "size classes colour normalise validation hold_out test_fraction background train_split test_split",
    "network": "name depth width norm pooling",
    "expert": "epochs lr momentum weight_decay batch augment flat flat_radius flat_alpha save_every storage threads",
    "matching": "inner_steps expert_epochs first_epoch last_epoch window_start window_steps segments concurrent_from "
    "combine batch augment differentiated_steps restart_step sharpness ascent radius smoothing asam_offset gsam_alpha "
    "vasso_decay rate estimator halved mixed",
    "outer": "seed initial labels lr_labels momentum_labels step_size optimiser lr_images momentum lr_step_size "
    "momentum_step_size clip relative_clip ema guard threads snapshots snapshot_at",
    "baseline": "lr_images batch updates epochs lr window window_radius",
    "evaluation": "networks epochs momentum weight_decay batch augment random_draws validation_networks whole_epochs",
}
FLAT = {f"{group}.{name}".lstrip(".") for group, names in NAMES.items() for name in names.split()}
# What draws are for. A new purpose shifts none of them; a renamed one is another draw.
PURPOSES = {
    "accumulated", "batches", "check of a network", "check of derivatives", "class order", "condensation", "condense",
    "continual", "cost", "direction of images", "distill", "dropout", "evaluation", "expert batches", "expert weights",
    "initial images", "inner", "landscape", "low rank", "memory", "moved weights", "nearest", "network", "noise",
    "panel", "pcgrad", "plan", "power iteration", "random real images", "real", "search", "segment", "test", "training",
    "validation", "weights", "whole", "window",
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        (EXPERT_FIELDS, "69a4cc24d71a43f8c2332ffab61b976c"),
        (DISTILL_FIELDS, "5ab6c919b3cf9ee62e902d41c9e7af7e"),
        (EVALUATE_FIELDS, "84eb2675dc0797e80b729eafe4d43522"),
    ],
)
def test_settings_that_folders_are_compared_by_stay_as_they_are(fields: tuple[str, ...], digest: str) -> None:
    found = {key: value for key, value in settings(resolve(Config()), fields).items() if key in FLAT}
    assert blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=16).hexdigest() == digest


def test_the_texts_of_recipes_and_networks_stay_as_they_are() -> None:
    assert repr(Network()) == "Network(name='convnet', depth=3, width=128, norm='instance', pooling='avg')"
    assert repr(Training(0.05, 3, sharpness=FlatGSAM())) == (
        "Training(lr=0.05, epochs=3, batch=256, momentum=0.0, weight_decay=0.0, families=(), lr_drop=None, "
        "sharpness=FlatGSAM(rho=0.01, alpha=0.3))"
    )
    assert repr(AdamWTraining(0.001, 3)) == (
        "AdamWTraining(lr=0.001, epochs=3, batch=256, momentum=0.0, weight_decay=0.0, families=(), lr_drop=None, "
        "sharpness=None, mix=0.5)"
    )
    assert [repr(rule) for rule in (SAM(0.1), ASAM(0.1), GSAM(0.1), VaSSO(0.1))] == [
        "SAM(rho=0.1)", "ASAM(rho=0.1, c=0.01)", "GSAM(rho=0.1, alpha=0.3)", "VaSSO(rho=0.1, k=0.2)",
    ]  # fmt: skip


def purposes(source: str) -> set[str]:
    """The words for which `derive` and `generator` are called in a source text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].lstrip("_") in ("derive", "generator"):
            words = [a.value for a in node.args[1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found |= {" ".join(words)} if words else set()
    return found


def test_draws_keep_their_purposes() -> None:
    found = set[str]().union(*(purposes(path.read_text("utf8")) for path in PACKAGE.rglob("*.py")))
    assert PURPOSES - found == set()
    assert purposes('x = generator(seed, "expert", k, "batches")') == {"expert batches"}
    assert derive(7, "segment", 3) == 7505578801791094442
