"""Where a distillation starts: initial images, and labels or their logits."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from trajmatch.core.descent import brought_to
from trajmatch.core.draws import generator
from trajmatch.core.student import in_parts
from trajmatch.core.tiles import decoded, encoded, repeated
from trajmatch.data.networks.convnet import embedding
from trajmatch.data.synthetic import class_labels, initial_images, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods import engines
from trajmatch.methods.initial import correct_images, label_logits
from trajmatch.methods.selection import SELECTIONS, by_class
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.assembly.engine import WHOLE
from trajmatch.run.assembly.setup import Setup
from trajmatch.settings.methods import METHODS

# The first step size where it is left open, until one is found that fits the experts.
USUAL = 0.01


def first_state(setup: Setup, trajectories: Sequence[Trajectory]) -> OuterState:
    """The state before the first outer step of a resolved configuration. Raises ValueError.

    A first step size that is left open is `USUAL` here: `first_rate.py` finds one that fits.
    """
    X, config = first_images(setup, trajectories), setup.config
    if config.outer.image_norm and METHODS[config.method].steps not in ("condensation", "none"):
        X = brought_to(X, config.outer.image_norm)
    num_classes = setup.dataset.num_classes
    labels = class_labels(setup.material.condensed, config.ipc)
    if config.outer.labels == "learned":
        logits = list(_outputs(setup, trajectories, lambda: [decoded(X, config.factor)]))
        Y = label_logits(torch.stack(logits), repeated(labels, config.factor))
        if config.factor > 1:  # a label for each stored image: the mean over its tiles
            Y = Y.unflatten(0, (len(X), -1)).mean(1)
    else:
        Y = one_hot(labels, num_classes)
    return new_state(X.to(setup.device), Y.to(setup.device), config.outer.step_size or USUAL)


def first_images(setup: Setup, trajectories: Sequence[Trajectory]) -> Tensor:
    """X (n, c, h, w) before the first outer step. Raises ValueError."""
    config, material, seed = setup.config, setup.material, setup.seed
    train, kind, num_classes = setup.dataset.train, config.outer.initial, material.condensed
    factor, count = config.factor, config.ipc * config.factor**2

    def parts() -> Iterator[Tensor]:
        return map(material.space.forward, train.x.split(WHOLE))

    if kind == "real" or kind == "noise":
        return initial_images(kind, train, material.space, num_classes, config.ipc, seed, factor)
    if kind in SELECTIONS:
        (features,) = _outputs(setup, trajectories[:1], parts, embedding)
        chosen = by_class(kind, features, train.y, num_classes, count)
        return encoded(material.space.forward(train.x[chosen]), factor)
    logits = _outputs(setup, trajectories, parts)
    right = (of_expert.argmax(1) == train.y for of_expert in logits)
    index = correct_images(right, train.y, num_classes, count, generator(seed, "initial images"))
    return encoded(material.space.forward(train.x[index]), factor)


@torch.no_grad()
def _outputs(
    setup: Setup,
    trajectories: Sequence[Trajectory],
    images: Callable[[], Iterable[Tensor]],
    seen_as: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Iterator[Tensor]:
    """Logits (n, C) of every expert, trained to its end, one after another; `images` gives theirs, some at a time.

    No more of them go through the network at once than --micro-batch or --memory allow.

    seen_as: what of the network is wanted instead, such as its features.
    """
    forward, device = in_parts(engines.forward(seen_as(setup.network), setup.engine), setup.at_once()), setup.device
    for trajectory in trajectories:
        theta = trajectory.row(trajectory.num_rows - 1).to(device)
        yield torch.cat([forward(theta, part.to(device)).cpu() for part in images()])
