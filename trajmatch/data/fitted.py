"""The input space of images, fitted to them now or by an earlier command on the same machine."""

from hashlib import blake2b
from importlib import resources

import torch
from torch import Tensor

from trajmatch.data import cache
from trajmatch.data.cache import Kept
from trajmatch.data.space_file import file_name
from trajmatch.data.whitening import InputSpace, fitted
from trajmatch.machine.messages import LOGGER
from trajmatch.machine.processor import described

# Dimensions from which on a ZCA is kept: the fit of fewer takes no second.
WORTH = 512
# Dimensions from which on it is said that a fit takes its time.
SLOW = 2000


def fit_once(kind: str, x: Tensor, content: str) -> InputSpace:
    """The input space of training images x (n, c, h, w), and a line about it where there is one to say.

    content: hash of these images.

    It is bitwise what `whitening.fitted` gives here: the file of an earlier fit is used only where that was of the same
    images, by the same code and release of torch, on the same kind of processor with as many threads, all of which
    change the last bits of a decomposition. Raises ValueError as `fitted`.
    """
    if kind != "zca" or x[0].numel() < WORTH:
        space, told = fitted(kind, x)
    elif (found := cache.find("whitening", key := _key(kind, x, content), _understood)) is not None:
        space, told = found
    else:
        if x[0].numel() >= SLOW:
            LOGGER.info(
                f"ZCA is fitted to {len(x)} images of {x[0].numel()} numbers each, which can take half a minute"
            )
        space, told = fitted(kind, x)
        about = {"kind": kind, "shape": space.shape, "told": told, "file": file_name(space)}
        cache.keep("whitening", key, space.to_tensors(), about)
    if told:
        LOGGER.info(told)
    return space


def _key(kind: str, x: Tensor, content: str) -> dict[str, str]:
    return {
        "images": content,
        "shape": str(tuple(x.shape)),
        "kind": kind,
        "code": _code(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "machine": described(),
    }


def _code() -> str:
    """Hash of the modules that fit."""
    found = blake2b(digest_size=16)
    for name in ("whitening.py", "low_rank.py"):
        found.update(resources.files("trajmatch.data").joinpath(name).read_bytes())
    return found.hexdigest()


def _understood(kept: Kept) -> tuple[InputSpace, str]:
    """An input space out of a file. Raises ValueError, KeyError or TypeError where it holds something else."""
    c, h, w = map(int, kept.about["shape"])
    # Copies: the tensors as read are views of the file, which another command may remove.
    tensors = {name: tensor.clone() for name, tensor in kept.tensors.items()}
    space = InputSpace.from_tensors(str(kept.about["kind"]), (c, h, w), tensors)
    if (wrong := space.wrong()) is not None:
        raise ValueError(wrong)
    LOGGER.info("ZCA from the cache of %s", kept.path)
    return space, str(kept.about["told"])
