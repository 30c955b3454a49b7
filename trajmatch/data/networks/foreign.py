"""Networks that others make: timm's, by name and arguments, and those of the user's own code.

Legend: shape (c, h, w) of one image.
"""

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import Any

import torch
from torch import nn

from trajmatch.machine.own_code import RAISED_BY_USERS, imported, reason

__all__ = ["RAISED_BY_USERS", "Factory", "Shape", "arguments", "of_timm", "of_user", "reason"]

Shape = tuple[int, int, int]
Factory = Callable[[Shape, int], nn.Module]
# Arguments of timm's that are given for every network, and those that would fill in weights.
DECIDED = ("num_classes", "in_chans", "img_size")
WEIGHTS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def of_timm(asked: str) -> Factory:
    """What makes timm's network of a name with arguments, as in vit_tiny_patch16_224?patch_size=4&depth=2.

    Raises ValueError, one sentence, for arguments that can't be read and for pretrained weights; the factory does for
    what timm does not have, can't make or can't be had here.
    """
    name, _, words = asked.partition("?")
    full = f"--network.name is timm:{asked}"
    plain = name.rpartition(":")[2].rpartition("/")[2].partition(".")[0]
    if name != plain:
        raise ValueError(
            f"{full}, where a tag or source means pretrained weights: all networks start from random weights here, "
            f"so name it as timm:{plain}, or load the weights in a MODULE:FACTORY of your own"
        )
    return partial(_made_by_timm, name, arguments(words, full) if "?" in asked else {}, full)


def arguments(words: str, asked: str) -> dict[str, Any]:
    """The arguments in KEY=VALUE&KEY=VALUE, with numbers, true, false, words, and several of them between commas.

    asked: what a refusal begins with. Raises ValueError.

    >>> arguments("depth=2&drop_rate=1e-1&qkv_bias=false&depths=2,2&act_layer=gelu", "")
    {'depth': 2, 'drop_rate': 0.1, 'qkv_bias': False, 'depths': (2, 2), 'act_layer': 'gelu'}
    """
    found: dict[str, Any] = {}
    for word in words.split("&"):
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier() or not value:
            raise ValueError(f"{asked}, and '{word}' must be KEY=VALUE; several stand as KEY=VALUE&KEY=VALUE")
        if key in found:
            raise ValueError(f"{asked}, which gives {key} twice")
        if key in DECIDED:
            raise ValueError(f"{asked}, and {key} is not to be given: the images and their classes decide it")
        if key in WEIGHTS:
            raise ValueError(f"{asked}, and {key} is not to be given: every network here starts from random weights")
        several = tuple(map(_typed, value.removesuffix(",").split(",")))
        found[key] = several if "," in value else several[0]
    return found


def _typed(word: str) -> bool | int | float | str:
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", word):
        return int(word)
    return float(word) if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", word.lower()) else word


def _timm(asked: str) -> Any:
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        if error.name == "timm":
            raise ValueError(f"{asked}, which needs timm: pip install 'trajmatch[timm]'") from None
        raise ValueError(f"{asked}, and timm can't be imported here: {reason(error)}") from None
    except RAISED_BY_USERS as error:
        why = f"{asked}, and timm can't be imported here: {reason(error)}"
        if "torchvision" not in str(error):
            raise ValueError(why) from None
        build = torch.__version__.partition("+")[2] or "cpu"
        raise ValueError(
            f"{why}. timm needs torchvision, and the one that is installed was built for another torch than "
            f"{torch.__version__}: pip install --force-reinstall --no-deps torchvision=={version('torchvision')} "
            f"--index-url https://download.pytorch.org/whl/{build}"
        ) from None


def _made_by_timm(name: str, given: dict[str, Any], asked: str, shape: Shape, num_classes: int) -> nn.Module:
    timm = _timm(asked)
    # Old names that timm maps to pretrained weights of others are not in its list.
    if name not in (known := timm.list_models()):
        near = get_close_matches(name, known, n=1, cutoff=0.4)
        raise ValueError(f"{asked}, which timm does not have{f'; it has {near[0]}' if near else ''}")
    make = partial(timm.create_model, name, pretrained=False, num_classes=num_classes, in_chans=shape[0])
    try:
        network: nn.Module = _sized(make, given, shape)
    except RAISED_BY_USERS as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        why = _unknown(unknown[1], make) if unknown and unknown[1] in given else reason(error)
        raise ValueError(f"{asked}, which timm can't make for images of {shape[1]} x {shape[2]}: {why}") from None
    return network


def _sized(make: Callable[..., nn.Module], given: dict[str, Any], shape: Shape) -> nn.Module:
    try:
        return make(img_size=shape[1:], **given)
    except TypeError as error:  # a network of any size takes no size
        if "img_size" not in str(error):
            raise
    return make(**given)


def _unknown(key: str, make: Callable[..., nn.Module]) -> str:
    """That a network has no such argument, and which of its own is near."""
    with torch.device("meta"):
        kind = type(make())
    near = get_close_matches(key, signature(kind).parameters, n=1)
    return f"its class {kind.__name__} has no argument {key}{f'; did you mean {near[0]}?' if near else ''}"


def of_user(name: str) -> Factory:
    """What the user's own code, MODULE:FACTORY, makes networks with. Raises ValueError where it can't be imported."""
    asked = f"--network.name is {name}"
    found: Factory = imported(asked, name, "MODULE:FACTORY, such as networks:small")
    if not callable(found):
        raise ValueError(
            f"{asked}, which is of type {type(found).__name__} and must be a function of the images' shape (c, h, w) "
            "and the number of classes that returns a torch.nn.Module"
        )
    return found
