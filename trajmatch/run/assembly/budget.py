"""What the outer loop holds in memory, by count, and the micro-batch that keeps it below a limit."""

import re
from collections.abc import Callable
from math import ceil, prod

import torch
from torch import nn

from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.settings.config import Config
from trajmatch.settings.methods import METHODS

UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# A process that has loaded torch and our own modules, and on a GPU the CUDA context beside it (measured).
PROCESS = {"cpu": 330e6, "cuda": 500e6, "mps": 0.0}
# Bytes that a step of the sweep holds at once, over the bytes of all its layers' outputs; measured at most 4.9 and 1.6
# on images of 32 and 64 pixels (docs/LOG.md).
PER_OUTPUT = {"eager": 5.5, "fused": 2.0, "compiled": 2.5}
# Copies of each image that a step makes where one call takes the derivatives: augmented, and gradients in them.
COPIES = 6


def parse_memory(text: str) -> float:
    """Bytes of "4GB", "500 MB" or "2GiB". Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*((?:[KMGT]i?)?B)\s*", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ValueError(f"--memory is '{text}' and must be a number and a unit, such as 4GB or 800MB")
    return float(found[1]) * UNITS[found[2].upper()]


def held_bytes(config: Config, device: torch.device, num_parameters: int, num_pixels: int, data_bytes: float) -> float:
    """What stays in memory during the outer loop, beside the step itself.

    num_pixels: numbers in the synthetic images. data_bytes: the real images and their input space.
    """
    m = config.matching
    assert m.differentiated_steps is not None, "resolve() has filled it in"
    assert m.restart_step is not None
    method, b = METHODS[config.method], config.baseline
    iterates = 0.0 if method.condenses else _matching(config, m.differentiated_steps, m.restart_step)
    if method.through_training:
        iterates = max(iterates, _through_training(config, b.differentiated_steps or m.differentiated_steps))
    # Students that go on are in the state and its two anchors, and once more while one of them is replaced.
    iterates += 4 * (b.students or 0) * (2 if b.inner == "momentum" else 1) if method.through_training else 0
    iterates += 8  # and the segment, the adjoint, gradients on their way
    copies = 30  # state, two anchors, all with moments and average; noise, hypergradients
    on_cpu = data_bytes if device.type == "cpu" else 0.0
    return PROCESS[device.type] + on_cpu + 4.0 * (iterates * num_parameters + copies * num_pixels)


def _matching(config: Config, differentiated: int, restart: int) -> float:
    """Weights that the trajectories of a step keep at once, in numbers of networks."""
    m = config.matching
    partly = m.estimator in ("adjoint", "truncated") and not m.early_stop
    swept = differentiated if partly else m.inner_steps
    kept = swept / m.keep_every + m.keep_every
    if m.sharpness != "none" and m.ascent == "fresh":  # trajectory 2, beside 1, whose ends the step size needs
        kept += m.inner_steps - restart
    return kept * (m.segments or 1)


def _through_training(config: Config, differentiated: int) -> float:
    """The same where the loss on real images is differentiated: with Adam, three numbers for each weight, with momentum
    two."""
    m, b = config.matching, config.baseline
    # A window that is chosen by the gradients is known only after all steps.
    swept = differentiated if b.window == "random" else b.inner_steps or m.inner_steps
    # Of the start, and of the end; and of the adjoints of Adam and of momentum what is more than SGD's.
    kept = swept / m.keep_every + m.keep_every + 2
    return {"adam": 3 * kept + 8, "momentum": 2 * kept + 4}.get(b.inner, kept)


def step_bytes(network: nn.Module, shape: tuple[int, int, int], engine: Engine) -> Callable[[int], float]:
    """Bytes that a step of the sweep holds at its peak, as a function of the images of its mini-batch.

    Where one call takes all derivatives it is a count of what the call holds, which does not grow with every image.
    """
    if (found := engines.one_call(network, engine)) is not None:
        return lambda n: found.held_bytes(n, shape) + 4.0 * COPIES * prod(shape) * n
    each = image_bytes(network, shape, engine.name)
    return lambda n: n * each


def image_bytes(network: nn.Module, shape: tuple[int, int, int], engine: str) -> float:
    """Bytes that each image needs where a step goes layer by layer: a bound from its layers' outputs."""
    outputs = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: outputs.append(output.numel()))
        for module in network.modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        network(torch.zeros(1, *shape, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return 4.0 * PER_OUTPUT[engine] * sum(outputs)


def micro_batch(limit: float, held: float, step: Callable[[int], float], n: int) -> int | None:
    """The largest micro-batch within the limit, one of equal parts of n images, so that no step has a small one at its
    end; None where all fit.

    step: bytes that so many images need. Raises ValueError where one image does not fit.
    """
    for parts in range(1, n + 1):
        size = ceil(n / parts)
        if held + step(size) <= limit:
            return None if parts == 1 else size
    raise ValueError(
        f"--memory is {limit / 1e6:.3g} MB, and the smallest step needs {(held + step(1)) / 1e6:.0f} MB: "
        "raise it, or try --matching.keep-every or a smaller network"
    )
