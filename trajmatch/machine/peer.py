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
from trajmatch.machine.torchrun import RankLostError

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
# How tensors travel: their shapes, strides, types and kind of device, which is the same at both ends. The strides of a
# dimension of size 1 decide which kernel a convolution takes, and with it the last bits.
Form = tuple[list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]], str]
# Every tensor begins at a multiple of so many bytes.
ALIGNED = 64


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
        self._send((function, arguments), _form(tensors))
        if tensors:
            self.answer()  # it listens: a rank that hangs is told from one that is slow, before tensors are sent
            self._pass(tensors)

    def asked_for(self) -> Answer:
        """The next words, with their tensors, as `ask` sends them.

        Raises OSError, EOFError, RuntimeError, RankLostError where the rank has ended.
        """
        words, form = self.connection.recv()
        if form[0]:
            self.tell(("done", None))
        return words, _received(form, self.rank)

    def tell(self, words: Any, tensors: Sequence[Tensor] = ()) -> None:
        """Send words, and tensors of one kind of device, to a rank that waits for them. Raises RankLostError."""
        self._send(words, _form(tensors))
        if tensors:
            self._pass(tensors)

    def _send(self, words: Any, form: Form) -> None:
        try:
            with holding.Held(), self._turn:
                self.connection.send((words, form))
        except OSError:
            raise self.lost("has ended") from None

    def _pass(self, tensors: Sequence[Tensor]) -> None:
        try:
            dist.send(_packed(tensors), self.rank)
        except RuntimeError as error:
            raise self.lost(f"has not taken its tensors ({_first_line(error)})") from None

    def answer(self) -> Answer:
        """What was asked for: a value, and tensors. Raises what the rank raised, or RankLostError.

        It may take no longer than `limit`. What the rank reports meanwhile is not heard.
        """
        while (found := self.message(lambda value: None, 0.2, timed=True)) is None:
            holding.check()
        return found

    def message(self, listen: Listen, seconds: float, timed: bool = False) -> Answer | None:
        """Take a message that comes within so many seconds; the answer, where it is that. Raises as `answer`.

        listen: is told what the rank reports. timed: the answer may take no longer than `limit`.
        """
        if not wait([self.connection], seconds):
            now = time.monotonic()
            if timed and now - self.asked > limit():
                raise self.lost(f"has not answered for {now - self.asked:.0f} s")
            if now - self.heard > min(SILENCE, limit()):
                raise self.lost(f"has given no sign of life for {now - self.heard:.0f} s")
            return None
        try:
            (kind, value), form = self.connection.recv()
            tensors = _received(form, self.rank)
        except (OSError, EOFError):
            raise self.lost("has ended") from None
        except RuntimeError as error:
            raise self.lost(f"has not sent its tensors ({_first_line(error)})") from None
        self.heard = time.monotonic()
        if kind == "done":
            return value, tensors
        if kind == "failed":
            name, text = value
            raise KINDS[name](text) if name in KINDS else self.lost(f"failed ({name}: {text})")
        if kind == "signal" and not holding.came:
            holding.came.append(value)
        elif kind == "report":
            listen(value)
        return None

    def is_gone(self) -> bool:
        """Whether the rank has ended, as far as its connection tells; what it says meanwhile is not heard any more."""
        try:
            while self.connection.poll():
                self.connection.recv()
        except (OSError, EOFError):
            return True
        return False

    def lost(self, how: str) -> RankLostError:
        """The error of a rank that is of no use any more."""
        return RankLostError(f"{self.name} {how}; what was complete is kept")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _form(tensors: Sequence[Tensor]) -> Form:
    """How tensors travel. Raises ValueError where they lie on several kinds of device."""
    kinds = {t.device.type for t in tensors} or {"cpu"}
    if len(kinds) > 1:
        raise ValueError(f"tensors for another rank lie on several kinds of device: {sorted(kinds)}")
    return [(tuple(t.shape), _strides(t), t.dtype) for t in tensors], kinds.pop()


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Its strides; those of a contiguous one where it has overlaps, as an expanded tensor does."""
    expanded = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.empty(tensor.shape, device="meta").stride() if expanded else tensor.stride()


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors in one message."""
    parts = [t.detach().contiguous().view(-1).view(torch.uint8) for t in tensors]
    packed = torch.cat([F.pad(part, (0, -len(part) % ALIGNED)) for part in parts])
    return packed if packed.device.type in ("cpu", "cuda") else packed.cpu()


def _received(form: Form, source: int) -> list[Tensor]:
    """The tensors that follow a message."""
    about, kind = form
    sizes = [prod(shape) * dtype.itemsize for shape, _, dtype in about]
    if not about:
        return []
    length, place = sum(size + -size % ALIGNED for size in sizes), "cuda" if kind == "cuda" else "cpu"
    packed = torch.empty(length, dtype=torch.uint8, device=place)
    dist.recv(packed, source)
    packed, found, start = packed.to(kind), [], 0
    for (shape, strides, dtype), size in zip(about, sizes, strict=True):
        plain = packed[start : start + size].view(dtype).view(shape)
        found.append(plain if plain.stride() == strides else _strided(plain, strides))
        start += size + -size % ALIGNED
    return found


def _strided(plain: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same values with these strides."""
    return torch.empty_strided(plain.shape, strides, dtype=plain.dtype, device=plain.device).copy_(plain)
