"""Short distillations beside a run, each in a folder of its own, by the run's settings but for a few."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev

from trajmatch.core.draws import derive
from trajmatch.data.synthetic import seen
from trajmatch.measure.evaluate import train_and_test
from trajmatch.methods.outer import probabilities
from trajmatch.run.assembly.setup import Setup
from trajmatch.run.diagnose.subject import Opened
from trajmatch.run.folder import claim
from trajmatch.run.stages.loop import Loop
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Matching


def changed(run: Opened, matching: Matching, steps: int) -> Config:
    """The settings of a run with the given ones for matching, and with so many steps."""
    outer = replace(run.config.outer, snapshots=1, snapshot_at=())
    return resolve(replace(run.config, matching=matching, outer=outer, steps=steps, resume=True))


def distilled(run: Opened, config: Config, folder: Path, advance: Callable[[int], None]) -> Loop:
    """Distil in `folder`, or go on with what was begun there; advance() is told every outer step."""
    claim(folder, config)
    loop = Loop(Setup(config, run.setup.material), run.trajectories, folder)
    advance(loop.checkpoint.step)
    loop.run(lambda details, count: advance(count))
    return loop


def score(run: Opened, loop: Loop, networks: int, advance: Callable[[int], None]) -> dict[str, float]:
    """Test accuracy of networks trained on the last images of a distillation: mean, std, n."""
    state, setup, test = loop.checkpoint.state, run.setup, run.setup.dataset.test
    make, engine, recipe = setup.make(), setup.engine, setup.evaluation_training(float(state.eta))
    x, y = setup.material.space.forward(test.x).to(setup.device), test.y.to(setup.device)
    X, Y = seen(state.average, probabilities(loop.rule, state), loop.rule.factor)
    found = []
    for i in range(networks):
        found.append(train_and_test(make, X, Y, recipe, x, y, derive(run.config.seed, "evaluation", i), engine))
        advance(1)
    return {"mean": fmean(found), "std": pstdev(found), "n": len(found)}
