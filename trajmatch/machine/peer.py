"""Another process of a torchrun job, as seen from this one: it is asked for work, and answers or is lost.

Words travel over connections of the standard library, which tell at once when a process has ended; tensors travel by
torch.distributed: gloo, or NCCL between GPUs.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from trajmatch.machine import holding

# Seconds without a sign of life after which a rank that computes counts as lost.
SILENCE = 60.0
# Seconds that the answer to a piece of an outer step may take, unless the environment has another number.
LIMIT, LIMIT_VARIABLE = 1800.0, "TRAJMATCH_RANK_TIMEOUT"
# Failures that are raised again as what they are at the rank that asked; any other is a `RankLostError`.
KINDS = {kind.__name__: kind for kind in (ValueError, FloatingPointError, MemoryError, ChildProcessError, OSError)}

# What a rank is asked for: (report, *arguments, *tensors) -> a value, and tensors. `report` tells whoever asked.
Function = Callable[..., tuple[Any, Sequence[Tensor]]]
Answer = tuple[Any, list[Tensor]]
Listen = Callable[[Any], None]
# How tensors travel: their shapes, types and kind of device, which is the same at both ends.
Form = tuple[list[tuple[tuple[int, ...], torch.dtype]], str]


class RankLostError(ChildProcessError):
    """A rank has ended, does not answer, or failed in what it was asked for."""


def limit() -> float:
    """Seconds that the answer to a piece of an outer step may take. Raises ValueError."""
    given = os.environ.get(LIMIT_VARIABLE, str(LIMIT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise ValueError(f"{LIMIT_VARIABLE} is '{given}' in the environment and must be a number of seconds above 0")
    return seconds


@dataclass(eq=False)
class Peer:
    """Another rank.

    name: in words, for messages. asked, heard: when it was asked for something, and when it last said anything.
    """

    rank: int
    name: str
    connection: "Connection[Any, Any]"
    asked: float = 0.0
    heard: float = 0.0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, function: Function, *arguments: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Ask for `function(report, *arguments, *tensors)`, which `answer` waits for. Raises RankLostError."""
        self.asked = self.heard = time.monotonic()
        self.tell((function, arguments), tensors)

    def tell(self, words: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Send words, and tensors of one kind of device. Raises RankLostError."""
        try:
            with holding.Held(), self._turn:
                self.connection.send((words, _form(tensors)))
            if tensors:
                dist.send(_packed(tensors), self.rank)
        except (OSError, RuntimeError):
            raise self.lost("has ended") from None

    def told(self) -> Answer:
        """The next words, with their tensors. Raises OSError, EOFError, RuntimeError where the rank has ended."""
        words, form = self.connection.recv()
        return words, _received(form, self.rank)

    def answer(self, listen: Listen = lambda value: None, timed: bool = True) -> Answer:
        """What was asked for: a value, and tensors. Raises what the rank raised, or RankLostError.

        listen: is told what the rank reports meanwhile. timed: the answer may take no longer than `limit`.
        """
        while (found := self.message(listen, 0.2, timed)) is None:
            holding.check()
        return found

    def message(self, listen: Listen, seconds: float, timed: bool = False) -> Answer | None:
        """Take a message that comes within so many seconds; the answer, where it is that. Raises as `answer`."""
        if not wait([self.connection], seconds):
            now = time.monotonic()
            if timed and now - self.asked > limit():
                raise self.lost(f"has not answered for {now - self.asked:.0f} s")
            if now - self.heard > min(SILENCE, limit()):
                raise self.lost(f"has given no sign of life for {now - self.heard:.0f} s")
            return None
        try:
            (kind, value), tensors = self.told()
        except (OSError, EOFError, RuntimeError):
            raise self.lost("has ended") from None
        self.heard = time.monotonic()
        if kind == "done":
            return value, tensors
        if kind == "failed":
            error, text = value
            raise KINDS[error](text) if error in KINDS else self.lost(f"failed ({error}: {text})")
        if kind == "signal" and not holding.came:
            holding.came.append(value)
        elif kind == "report":
            listen(value)
        return None

    def lost(self, how: str) -> RankLostError:
        """The error of a rank that is of no use any more."""
        return RankLostError(f"{self.name} {how}; what was complete is kept")


def _form(tensors: Sequence[Tensor]) -> Form:
    """How tensors travel. Raises ValueError where they lie on several kinds of device."""
    kinds = {t.device.type for t in tensors} or {"cpu"}
    if len(kinds) > 1:
        raise ValueError(f"tensors for another rank lie on several kinds of device: {sorted(kinds)}")
    return [(tuple(t.shape), t.dtype) for t in tensors], kinds.pop()


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors, each from a multiple of eight on: one message and not several."""
    parts = [t.detach().contiguous().view(-1).view(torch.uint8) for t in tensors]
    packed = torch.cat([F.pad(part, (0, -len(part) % 8)) for part in parts])
    return packed if packed.device.type in ("cpu", "cuda") else packed.cpu()


def _received(form: Form, source: int) -> list[Tensor]:
    """The tensors that follow a message."""
    about, kind = form
    sizes = [prod(shape) * dtype.itemsize for shape, dtype in about]
    if not about:
        return []
    length, place = sum(size + -size % 8 for size in sizes), "cuda" if kind == "cuda" else "cpu"
    packed = torch.empty(length, dtype=torch.uint8, device=place)
    dist.recv(packed, source)
    packed, found, start = packed.to(kind), [], 0
    for (shape, dtype), size in zip(about, sizes, strict=True):
        found.append(packed[start : start + size].view(dtype).view(shape))
        start += size + -size % 8
    return found
