"""One expert: a network trained on the real images, its weights kept along the way."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trajmatch.core.draws import derive
from trajmatch.data.networks.convnet import build
from trajmatch.methods import engines
from trajmatch.methods.engines import EAGER, Engine
from trajmatch.methods.training import Standing, Training, accuracy, train


@dataclass(frozen=True)
class Real:
    """Real images as one network sees them: x (n, c, h, w) in the input space, y (n,) int64, on one device.

    memory: images (m, c, h, w) and label probabilities (m, C) that are trained on beside them; None is none.
    passes: how often each of these is seen in an epoch.
    """

    x: Tensor
    y: Tensor
    memory: tuple[Tensor, Tensor] | None = None
    passes: int = 1


@dataclass
class Expert:
    """A trajectory: snapshots theta*_0, theta*_1, ... (P,) on the CPU, and accuracies in [0, 1].

    test_accuracy has one value for the initial weights and one after every epoch; train_accuracy is of the last
    snapshot, on all training images without augmentation.
    """

    rows: list[Tensor] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    train_accuracy: float = 0.0


def expert(
    factory: Callable[[], nn.Module],
    training: Real,
    test: Real,
    num_classes: int,
    recipe: Training,
    seed: int,
    index: int,
    save_every: int | None = None,
    report: Callable[[int, float], None] | None = None,
    engine: Engine = EAGER,
    keep: Callable[[Expert, Standing], object] | None = None,
    since: tuple[Expert, Standing] | None = None,
) -> Expert:
    """Train expert `index`, a function of (seed, index) and the other arguments alone (MTT, section 3).

    save_every: steps between snapshots; None takes one after every epoch.
    report: called with (epoch, test accuracy) after every epoch.
    keep: called before that with what the training could go on from: the expert so far, which grows, and where it is.
    since: what an earlier call with the same arguments kept; the training goes on there, to the same bits.
    Raises FloatingPointError, with the epoch, when the weights stop being finite.
    """
    network, theta = build(factory, derive(seed, "expert", index, "weights"))
    network = network.to(training.x.device)
    forward, student = engines.forward(network, engine), engines.student(network, engine)
    theta = theta.to(training.x.device)
    x, y = training.x, F.one_hot(training.y, num_classes).to(training.x.dtype)
    if training.memory is not None:
        x, y = (torch.cat([of, *[kept] * training.passes]) for of, kept in zip((x, y), training.memory, strict=True))
    # `.clone()` because on a CPU `.cpu()` would keep an alias of the live weights.
    result, standing = since or (Expert([theta.cpu().clone()], [accuracy(forward, theta, test.x, test.y)]), None)
    theta, draws = standing.theta if standing else theta, derive(seed, "expert", index, "batches")
    for now in train(student.gradient, theta, x, y, recipe, draws, standing):
        theta = now.theta
        if now.epoch_ended if save_every is None else now.step % save_every == 0:
            result.rows.append(theta.cpu().clone())
        if now.ended is not None:
            if not torch.isfinite(theta).all():
                raise FloatingPointError(
                    f"expert {index}: its weights stopped being finite in epoch {now.epoch}; lower --expert.lr"
                )
            result.test_accuracy.append(accuracy(forward, theta, test.x, test.y))
            if keep is not None:
                keep(result, now.ended)
            if report is not None:
                report(now.epoch, result.test_accuracy[-1])
    result.train_accuracy = accuracy(forward, theta, training.x, training.y)
    return result
