"""The steps of dc, dsa, dm, mdc and rat-bptt in the outer loop: random networks and batches of real images by class."""

from dataclasses import replace

import torch
from torch import Tensor

from trajmatch.core.augment import families
from trajmatch.core.descent import Adam, Momentum
from trajmatch.core.draws import derive, generator
from trajmatch.core.vector import Layout, functional
from trajmatch.data.networks.convnet import build, embedding
from trajmatch.machine.processes import cores
from trajmatch.methods import engines
from trajmatch.methods.condensation import GRADIENTS, MEAN_FEATURES, Condensation, condensation_step
from trajmatch.methods.outer import Rule
from trajmatch.methods.real_loss import Adaptive, real_loss_step
from trajmatch.methods.schedule import Choice
from trajmatch.methods.state import OuterState, Record
from trajmatch.methods.training import Training
from trajmatch.run.assembly.engine import WORTH_A_THREAD, Compute, convolution_flops
from trajmatch.run.assembly.letters import rule
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.stages.real_batches import RealBatches
from trajmatch.settings.config import Config

# Image updates for each network, and epochs of its training between two of them, from so many images per class on: of
# the program that dc's and dsa's authors published.
LOOPS = {1: (1, 1), 2: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
BATCH = 256
# Parts that mdc chooses in a run: its authors' program takes 2,000 networks, and chooses after every 100 of them.
INTERVALS = 20


def condensation(config: Config) -> Condensation:
    """The rule of a resolved configuration. The loops of dc and dsa grow with the images per class, as published."""
    b, o = config.baseline, config.outer
    seen = () if config.method == "dc" else families(config.matching.augment, "--matching.augment")
    if config.method == "dm":
        return Condensation(MEAN_FEATURES, Momentum(b.lr_images or 1.0, o.momentum), seen)
    updates, epochs = LOOPS[max(ipc for ipc in LOOPS if ipc <= config.ipc)]
    network = Training(b.lr, b.epochs or epochs, BATCH, families=seen)
    images = Momentum(b.lr_images or 0.1, o.momentum)
    updates = b.updates or updates
    interval = max(1, -(-config.steps // updates) // INTERVALS)
    return Condensation(GRADIENTS, images, seen, updates, network, config.method == "mdc", interval)


def real_loss(config: Config) -> Rule:
    """The rule of rat-bptt: an outer step's, with its own optimiser and no ascent."""
    return replace(rule(config), images=Adam(config.baseline.lr_images or 0.001), sharpness=None)


def adaptive(config: Config) -> Adaptive | None:
    """AT-BPTT's window, where it is asked for."""
    b, iota = config.baseline, config.matching.differentiated_steps
    if b.window == "random":
        return None
    assert iota is not None, "resolve() has filled it in"
    return Adaptive(max(1, iota // 4) if b.window_radius is None else b.window_radius, config.steps)


class Condenser:
    """Takes the steps: a function of the state, whatever was taken before."""

    def __init__(self, setup: Setup) -> None:
        config, material, device, dataset = setup.config, setup.material, setup.device, setup.dataset
        self.config, self.material, self.device = config, material, device
        self.seed = derive(setup.seed, "condense")
        self.make, self.network, self.engine = setup.make(), setup.network, setup.engine
        network, self.student = self.network, engines.student(self.network, self.engine)
        batch, space = config.baseline.batch, material.space
        self.real = RealBatches(dataset.train, dataset.num_classes, space, batch, device)
        self.classes = torch.eye(dataset.num_classes, device=device)
        if config.method != "rat-bptt":
            self.rule = condensation(config)
            self.layout = Layout.of(network)
            self.features = functional(embedding(network))
            self.forward = self.features if config.method == "dm" else functional(network)

    def compute(self) -> Compute:
        """How it computes: as experts are trained, but for features and derivatives of gradients, which are torch's."""
        b, method = self.config.baseline, self.config.method
        images = (b.batch * self.material.dataset.num_classes, *self.material.dataset.shape)
        threads = cores() if convolution_flops(self.network, images) >= WORTH_A_THREAD else 1
        why = "a step goes through one network" if method == "dm" else "as experts are trained"
        if method in ("dsa", "mdc") and not self.rule.families:
            why += "; without --matching.augment dsa is dc"
        return Compute(engines.EAGER if method == "dm" else self.engine, self.config.outer.threads or threads, why)

    def __call__(self, state: OuterState) -> tuple[OuterState, Record, list[Choice]]:
        """One step from a state."""
        step = int(state.steps)
        real = self.real.draw(generator(self.seed, "real", step))
        if self.config.method == "rat-bptt":
            x, y = (
                torch.cat(real),
                self.classes.repeat_interleave(torch.tensor([len(r) for r in real]).to(self.device), 0),
            )
            about, window = real_loss(self.config), adaptive(self.config)
            return (*real_loss_step(about, self.student, self._fresh(step), state, (x, y), self.seed, window), [])
        u = self.rule.updates
        fresh = self._fresh(step // u) if step % u == 0 else state.network
        arguments = (self.rule, self.forward, self.layout, self.student, fresh, state, real, self.seed)
        return (*condensation_step(*arguments, self.features), [])

    def _fresh(self, number: int) -> Tensor:
        """Weights of a new random network."""
        return build(self.make, derive(self.seed, "network", number))[1].to(self.device)
