"""Where a distillation starts: initial images, and labels or their logits."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from trajmatch.core.draws import generator
from trajmatch.core.student import in_parts
from trajmatch.data.material import Material
from trajmatch.data.networks.convnet import build, embedding
from trajmatch.data.synthetic import class_labels, initial_images, one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.methods import engines
from trajmatch.methods.initial import correct_images, label_logits
from trajmatch.methods.selection import SELECTIONS, by_class
from trajmatch.methods.state import OuterState, new_state
from trajmatch.run.assembly.engine import WHOLE, at_once, training_engine
from trajmatch.run.assembly.letters import distillation_seed
from trajmatch.run.assembly.setup import factory
from trajmatch.settings.config import Config


def first_state(
    config: Config, material: Material, trajectories: Sequence[Trajectory], device: torch.device
) -> OuterState:
    """The state before the first outer step of a resolved configuration. Raises ValueError."""
    X = first_images(config, material, trajectories, device)
    num_classes = material.dataset.num_classes
    labels = class_labels(num_classes, config.ipc)
    if config.outer.labels == "learned":
        logits = list(_outputs(config, material, trajectories, device, lambda: [X]))
        Y = label_logits(torch.stack(logits), labels)
    else:
        Y = one_hot(labels, num_classes)
    return new_state(X.to(device), Y.to(device), config.outer.step_size)


def first_images(
    config: Config, material: Material, trajectories: Sequence[Trajectory], device: torch.device
) -> Tensor:
    """X (n, c, h, w) before the first outer step. Raises ValueError."""
    train, kind, num_classes = material.dataset.train, config.outer.initial, material.dataset.num_classes
    seed = distillation_seed(config)

    def parts() -> Iterator[Tensor]:
        return map(material.space.forward, train.x.split(WHOLE))

    if kind == "real" or kind == "noise":
        return initial_images(kind, train, material.space, num_classes, config.ipc, seed)
    if kind in SELECTIONS:
        (features,) = _outputs(config, material, trajectories[:1], device, parts, embedding)
        return material.space.forward(train.x[by_class(kind, features, train.y, num_classes, config.ipc)])
    logits = _outputs(config, material, trajectories, device, parts)
    right = (of_expert.argmax(1) == train.y for of_expert in logits)
    index = correct_images(right, train.y, num_classes, config.ipc, generator(seed, "initial images"))
    return material.space.forward(train.x[index])


@torch.no_grad()
def _outputs(
    config: Config,
    material: Material,
    trajectories: Sequence[Trajectory],
    device: torch.device,
    images: Callable[[], Iterable[Tensor]],
    seen_as: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> Iterator[Tensor]:
    """Logits (n, C) of every expert, trained to its end, one after another; `images` gives theirs, some at a time.

    No more of them go through the network at once than --micro-batch or --memory allow.

    seen_as: what of the network is wanted instead, such as its features.
    """
    dataset = material.dataset
    network, _ = build(factory(config.network, dataset.shape, dataset.num_classes), 0)
    network, synthetic = network.to(device), (config.ipc * dataset.num_classes, *dataset.shape)
    limit = at_once(config, network, device, synthetic, material.nbytes)
    forward = in_parts(engines.forward(seen_as(network), training_engine(config, network, device)), limit)
    for trajectory in trajectories:
        theta = trajectory.row(trajectory.num_rows - 1).to(device)
        yield torch.cat([forward(theta, part.to(device)).cpu() for part in images()])
