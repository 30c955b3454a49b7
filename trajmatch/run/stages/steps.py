"""What takes the outer steps: segments of experts, or random networks and batches of real images by class.

Each maker is given the setup and the experts, and returns a function of the state, whatever was taken before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from trajmatch.core.augment import families
from trajmatch.core.descent import Adam, Momentum, new_moments
from trajmatch.core.draws import derive, generator
from trajmatch.core.inner import Memory
from trajmatch.core.student import Student, in_parts
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, embedding
from trajmatch.data.straight import Straight
from trajmatch.data.synthetic import one_hot
from trajmatch.data.trajectories import Trajectory
from trajmatch.machine.processes import cores
from trajmatch.machine.ranks import peers
from trajmatch.methods import engines
from trajmatch.methods.condensation import GRADIENTS, MEAN_FEATURES, Condensation, condensation_step
from trajmatch.methods.engines import Engine
from trajmatch.methods.kept_students import Kept
from trajmatch.methods.outer import Each, Rule, one_by_one, outer_step
from trajmatch.methods.real_loss import Adaptive, RealLoss, real_loss_step
from trajmatch.methods.schedule import Choice, Window
from trajmatch.methods.state import OuterState, Record
from trajmatch.methods.training import Training
from trajmatch.run.assembly.engine import WORTH_A_THREAD, Compute, convolution_flops
from trajmatch.run.assembly.letters import rule, schedule
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.real_batches import RealBatches
from trajmatch.run.stages.segments import Chunks, Learner, Spread, spread_chunks
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS

# Image updates for each network, and epochs of its training between two of them, from so many images per class on: of
# the program that dc's and dsa's authors published.
LOOPS = {1: (1, 1), 2: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
BATCH = 256
# Parts that mdc chooses in a run: its authors' program takes 2,000 networks, and chooses after every 100 of them.
INTERVALS = 20
# Why steps through random networks compute as they do, in words for the user.
AS_EXPERTS, AS_DC = "as experts are trained", "; without --matching.augment dsa is dc"

Take = Callable[[OuterState], tuple[OuterState, Record, list[Choice]]]


@dataclass(frozen=True)
class Steps:
    """What takes an outer step, how it computes, and what the first one would do for all of them."""

    take: Take
    compute: Compute
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Matching:
    """One step of trajectory matching: its segments, and what comes of them."""

    setup: Setup
    trajectories: Sequence[Trajectory | Straight]
    rule: Rule
    student: Student
    schedule: Window
    each: Each = one_by_one

    def __call__(self, state: OuterState) -> tuple[OuterState, Record, list[Choice]]:
        M, root, step = self.setup.config.matching.expert_epochs, self.setup.seed, int(state.steps)
        choices = self.schedule.choose(len(self.trajectories), root, step, self.schedule.concurrent(step))
        segments = [self.trajectories[e].segment(e, t, M).to(self.setup.device) for e, t in choices]
        return (*outer_step(self.rule, self.student, state, segments, derive(root, "distill"), self.each), choices)


def matching_steps(setup: Setup, trajectories: list[Trajectory]) -> Steps:
    """Segments of the experts are matched. Raises ValueError for an engine that can't be had."""
    compute, about = setup.outer_compute(), rule(setup.config)
    about = replace(about, together=compute.together, memory=setup.memory)
    local = engines.student(setup.network, replace(compute.engine, micro_batch=None), compute.together)
    chunks = Chunks(Learner(setup.config, setup.dataset.shape, setup.dataset.num_classes, compute.engine), local)
    student = spread_chunks(chunks)
    if student.forward is not None and about.labels == "teacher":
        student = student._replace(forward=in_parts(student.forward, setup.at_once()))
    each = Spread(about, chunks) if peers() else one_by_one
    ways = paths(setup, trajectories)
    about = replace(about, memory=_there(setup, about.memory))  # each rank moves its own
    return Steps(Matching(setup, ways, about, student, schedule(setup.config), each), compute)


def _there(setup: Setup, memory: Memory | None) -> Memory | None:
    """The memory where networks are trained."""
    return memory and memory._replace(X=memory.X.to(setup.device), Y=memory.Y.to(setup.device))


def paths(setup: Setup, trajectories: Sequence[Trajectory]) -> Sequence[Trajectory | Straight]:
    """What the segments are of: the experts' own trajectories, or these made straight."""
    m = setup.config.matching
    if m.path == "expert":
        return trajectories
    sizes = tuple(prod(shape) for shape in Layout.of(setup.network).shapes)
    return [Straight(one, sizes, m.waypoints) for one in trajectories]


def condensation_steps(setup: Setup, _: list[Trajectory]) -> Steps:
    """Real and synthetic batches are compared by gradients or mean features under random networks."""
    seed, about, batches = condensing_seed(setup), condensation(setup.config), real_batches(setup)
    layout, student = Layout.of(setup.network), engines.student(setup.network, setup.engine)
    features = functional(embedding(setup.network))
    by_features = about.matched == MEAN_FEATURES
    forward = features if by_features else functional(setup.network)

    def take(state: OuterState) -> tuple[OuterState, Record, list[Choice]]:
        step = int(state.steps)
        real = batches.draw(generator(seed, "real", step))
        fresh = fresh_weights(setup, step // about.updates) if step % about.updates == 0 else state.network
        return (*condensation_step(about, forward, layout, student, fresh, state, real, seed, features), [])

    if by_features:  # features and derivatives of gradients are torch's own
        return Steps(take, _compute(setup, engines.EAGER, "a step goes through one network"), batches.prepare)
    idle = "" if about.families or not METHODS[setup.config.method].augments else AS_DC
    return Steps(take, _compute(setup, setup.engine, f"{AS_EXPERTS}{idle}"), batches.prepare)


@dataclass(frozen=True)
class ThroughTraining:
    """Steps on the loss on real images, of random networks trained on the synthetic ones, which is differentiated."""

    setup: Setup
    rule: Rule
    student: Student
    batches: RealBatches
    how: RealLoss

    def __call__(self, state: OuterState) -> tuple[OuterState, Record, list[Choice]]:
        seed, step = condensing_seed(self.setup), int(state.steps)
        real = self.batches.draw(generator(seed, "real", step))
        classes = torch.arange(len(real)).repeat_interleave(torch.tensor([len(r) for r in real]))
        labels = one_hot(classes, self.setup.dataset.num_classes)
        given = torch.cat(real), labels.to(self.setup.device, non_blocking=True)
        fresh = fresh_weights(self.setup, step)
        return (*real_loss_step(self.rule, self.student, fresh, state, given, seed, self.how), [])


def real_loss_steps(setup: Setup, _: list[Trajectory]) -> Steps:
    """The loss on real images, of random networks trained on the synthetic ones, is differentiated."""
    batches = real_batches(setup)
    compute = _compute(setup, setup.real_loss_engine((batches.size, batches.nbytes)), AS_EXPERTS)
    how = through_training(setup.config, batches.epoch, compute.engine.micro_batch)
    student = engines.student(setup.network, compute.engine)
    n = setup.config.ipc * setup.material.condensed * setup.config.factor**2
    about = replace(real_loss(setup.config, n), memory=_there(setup, setup.memory_in_training))
    take = ThroughTraining(setup, about, student, batches, how)
    return Steps(take, compute, batches.prepare)


@dataclass(frozen=True)
class Refined:
    """Steps that match segments before the outer step `since`, and then differentiate the loss on real images.

    faster: by what the step size is multiplied at that step.
    """

    matching: Matching
    real_loss: ThroughTraining
    since: int
    faster: float

    def __call__(self, state: OuterState) -> tuple[OuterState, Record, list[Choice]]:
        step = int(state.steps)
        if step < self.since:
            return self.matching(state)
        if step == self.since:  # another optimiser, and norms of another loss
            anew = {"norm": torch.zeros_like(state.norm), "taken": torch.zeros_like(state.taken)}
            state = state._replace(image_moments=new_moments(state.X), eta=state.eta * self.faster, **anew)
        return self.real_loss(state)


def matching_of(take: Take) -> Matching | None:
    """The steps among these that match segments; None where there are none."""
    found = take.matching if isinstance(take, Refined) else take
    return found if isinstance(found, Matching) else None


def refined_steps(setup: Setup, trajectories: list[Trajectory]) -> Steps:
    """Segments of the experts are matched, and then the loss on real images is differentiated. Raises ValueError."""
    first, then = matching_steps(setup, trajectories), real_loss_steps(setup, [])
    assert isinstance(first.take, Matching)
    assert isinstance(then.take, ThroughTraining)
    b = setup.config.baseline
    # Adam inside leaves the step size to scores.
    faster = 1.0 if b.inner == "adam" else b.rate_factor
    assert faster is not None, "resolve() has filled it in"
    take = Refined(first.take, then.take, differentiated_from(setup.config), faster)
    return Steps(take, first.compute, then.prepare)


# By what a method's steps are (settings/methods.py). A method whose images stand still takes none.
STEPS: Mapping[str, Callable[[Setup, list[Trajectory]], Steps]] = {
    "matching": matching_steps,
    "none": matching_steps,
    "condensation": condensation_steps,
    "real loss": real_loss_steps,
    "matching, then real loss": refined_steps,
}


def condensing_seed(setup: Setup) -> int:
    """The seed of random networks and of batches of real images."""
    return derive(setup.seed, "condense")


def real_batches(setup: Setup) -> RealBatches:
    """Batches of real images by class. In a stream the classes before come last, and have none."""
    dataset, space, replay = setup.dataset, setup.material.space, setup.material.replay
    classes = dataset.num_classes - (replay.classes if replay is not None else 0)
    return RealBatches(dataset.train, classes, space, _real_batch(setup.config), setup.device)


def _real_batch(config: Config) -> int:
    """Real images of each class in a step."""
    assert config.baseline.batch is not None, "resolve() has filled it in"
    return config.baseline.batch


def fresh_weights(setup: Setup, number: int) -> Tensor:
    """Weights (P,) of a new random network."""
    theta = build(setup.make(), derive(condensing_seed(setup), "network", number))[1]
    return theta.to(setup.device, non_blocking=True)


def _compute(setup: Setup, engine: Engine, why: str) -> Compute:
    """How steps through random networks compute."""
    images = (_real_batch(setup.config) * setup.dataset.num_classes, *setup.dataset.shape)
    threads = cores() if convolution_flops(setup.network, images) >= WORTH_A_THREAD else 1
    return Compute(engine, setup.config.outer.threads or threads, why)


def condensation(config: Config) -> Condensation:
    """The rule of a resolved configuration. The loops of dc and dsa grow with the images per class, as published."""
    b, o, method = config.baseline, config.outer, METHODS[config.method]
    seen = families(config.matching.augment, "--matching.augment") if method.augments else ()
    if method.features:
        return Condensation(MEAN_FEATURES, Momentum(b.lr_images or 1.0, o.momentum), seen, factor=config.factor)
    updates, epochs = LOOPS[max(ipc for ipc in LOOPS if ipc <= config.ipc)]
    network = Training(b.lr, b.epochs or epochs, BATCH, families=seen)
    images = Momentum(b.lr_images or 0.1, o.momentum)
    updates = b.updates or updates
    interval = max(1, -(-config.steps // updates) // INTERVALS)
    return Condensation(GRADIENTS, images, seen, updates, network, method.parts, interval, config.factor)


def real_loss(config: Config, n: int) -> Rule:
    """The rule of steps on the loss on real images: an outer step's, with lengths and an optimiser of its own, and no
    ascent."""
    about, b = rule(config), config.baseline
    images, lengths = Adam(b.lr_images or 0.001), (b.inner_steps or about.T, b.differentiated_steps or about.iota)
    about = replace(
        about, T=lengths[0], iota=lengths[1], images=images, sharpness=None, since=differentiated_from(config)
    )
    if b.rate == "fixed":
        about = replace(about, rate=Momentum(0.0))
    return about if b.inner_batch is None else replace(about, batch=min(b.inner_batch, n))


def differentiated_from(config: Config) -> int:
    """The first outer step on the loss on real images: 0 where no step before it matches segments."""
    return (config.baseline.since or 0) if METHODS[config.method].matches else 0


def through_training(config: Config, epoch: int, chunk: int | None = None) -> RealLoss:
    """How rat-bptt and at-bptt differentiate the loss on real images, of a resolved configuration.

    epoch: outer steps in which as many real images are drawn as there are. chunk: real images at a time.
    """
    b = config.baseline
    iota = b.differentiated_steps or config.matching.differentiated_steps
    adam = Adam(b.inner_lr) if b.inner == "adam" else None
    momentum = b.inner_momentum if b.inner == "momentum" else 0.0
    seen = families(b.augment, "--baseline.augment")
    if b.students:
        return RealLoss(chunk=chunk, momentum=momentum, kept=Kept(b.students, b.oldest), families=seen)
    if b.window == "random":
        return RealLoss(adam, None, chunk, momentum, families=seen)
    assert iota is not None, "resolve() has filled it in"
    radius = max(1, iota // 4) if b.window_radius is None else b.window_radius
    adaptive = Adaptive(
        radius, config.steps - differentiated_from(config), epoch if b.window_stages == "accuracy" else None
    )
    return RealLoss(adam, adaptive, chunk, momentum, families=seen)
