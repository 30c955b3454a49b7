"""The first step size, where nobody gives one: the largest at which the first images lead no student past the experts.

The matching loss of a student that stands still is 1. A step size that is too large leads far beyond the segment's end,
mostly sideways, and the first outer steps would do nothing but lower it.
"""

from dataclasses import replace

from trajmatch.machine.messages import LOGGER
from trajmatch.measure.panel import losses, panel
from trajmatch.methods.outer import probabilities
from trajmatch.methods.state import OuterState
from trajmatch.run.assembly import letters
from trajmatch.run.stages.steps import Matching

# Step sizes that are tried, from the largest; the last is taken where the loss of none is low enough.
TRIED = (0.03, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)
# The largest matching loss, a mean over segments, with which images may begin, and how many segments.
BEGIN, SEGMENTS = 1.2, 3


def first_step_size(take: Matching, state: OuterState) -> float:
    """The first step size of a distillation from its first state, and a line about it.

    Cost: T inner gradients for each of a few segments and each step size that is tried.
    """
    setup, rule = take.setup, letters.rule(take.setup.config)
    M, seed = setup.config.matching.expert_epochs, setup.seed
    window = replace(take.schedule, segments=1, since=0)
    choices = [window.choose(len(take.trajectories), seed, step)[0] for step in range(SEGMENTS)]
    segments = [take.trajectories[e].segment(e, t, M).to(setup.device) for e, t in choices]
    Y, found, eta = probabilities(rule, state), float("inf"), TRIED[0]
    for eta in TRIED:
        tasks = panel(rule, take.student, segments, state.X, Y, state.eta.new_tensor(eta), seed)
        found = float(losses(tasks).mean())
        if found <= BEGIN:
            break
    LOGGER.info(
        f"first step size {eta:g}: with the first images its matching loss is {found:.3g} "
        f"(the largest tried that stays below {BEGIN:g}; --outer.step-size gives another)"
    )
    return eta
