"""What holds for every test: one thread, no windows, and the global random state stays as it was."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from tests.small import command, succeed

matplotlib.use("Agg")
torch.set_num_threads(1)


def global_random_state() -> dict[str, bytes]:
    """The state of each global generator, as bytes that can be compared."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    legacy = keys.tobytes() + repr((position, has_gauss, gauss)).encode()
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": legacy}


@pytest.fixture(autouse=True)
def _global_random_state_untouched() -> Iterator[None]:
    """Fails a test that draws from, or seeds, a global generator: every draw needs an explicit one."""
    before = global_random_state()
    yield
    after = global_random_state()
    touched = [name for name in before if before[name] != after[name]]
    assert not touched, f"the test changed the global random state of {', '.join(touched)}"


@pytest.fixture(scope="session", autouse=True)
def _no_data_in_the_user_s_cache() -> Iterator[None]:
    """Keeps images and input spaces out of the cache, in this process and in those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAJMATCH_CACHE_GB", "0")
        yield


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small experts."""
    folder = tmp_path_factory.mktemp("experts")
    succeed(*command("experts", "--experts", 2, "--out", folder))
    return folder


@pytest.fixture(scope="session")
def whole(experts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of 24 outer steps that nothing interrupted, evaluated and reported."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    succeed(*command("distill", "--experts", experts, "--steps", 24, "--out", folder))
    return folder
