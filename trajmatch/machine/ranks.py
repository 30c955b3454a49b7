"""The processes of one torchrun job: rank 0 runs the command, and the other ranks compute what it asks them for.

Rank 0 alone reads settings, decides, prints and writes records, so that there is nothing on which ranks could differ:
a rank that is asked for something is sent all that it depends on.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener, wait
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trajmatch.machine import holding
from trajmatch.machine.interrupts import SIGNALS
from trajmatch.machine.owner import host
from trajmatch.machine.peer import Function, Peer, limit
from trajmatch.machine.torchrun import RankLostError, address, attempt, local_rank, rank, world

# Seconds between two signs of life of a rank that computes, and those that it has to save its work at the end.
BEAT, GRACE = 1.0, 15.0
END = ("end", None)

# All other ranks, in the order of their numbers; and those that rank 0 may ask now.
_met: list[Peer] = []
_led: list[Peer] = []


def peers() -> list[Peer]:
    """The ranks that this process may ask: all others at rank 0 of a job, and none anywhere else."""
    return _led


@contextmanager
def lent() -> Iterator[None]:
    """Within the block the other ranks have work of their own, and can't be asked for more."""
    before = list(_led)
    _led.clear()
    try:
        yield
    finally:
        _led[:] = before


def peers_of(ranks: Sequence[int]) -> list[Peer]:
    """Some of the other ranks."""
    return [peer for peer in _met if peer.rank in ranks]


@contextmanager
def joined(device: str) -> Iterator[None]:
    """At rank 0: within the block the others can be asked; at its end they end. Raises RankLostError.

    device: "cuda" where tensors lie on GPUs.
    """
    _met[:] = _led[:] = _join(device)
    try:
        yield
    except KeyboardInterrupt:
        # torchrun asks all to end where one of them has ended, and that one is what must be said.
        if gone := [peer for peer in _met if peer.is_gone()]:
            raise gone[0].lost("has ended") from None
        raise
    finally:
        for peer in _met:
            with suppress(RankLostError):
                peer.tell(END)
        _met.clear()
        _led.clear()
        _leave()


@dataclass
class _Serving:
    """What a rank is at.

    peer:    whom it answers. turn: the number of its piece of work, by which the watch tells two apart.
    code:    with which it ends, where the watch has seen that rank 0 has. signals: those that came.
    """

    peer: Peer | None = None
    turn: int = 0
    code: int | None = None
    signals: list[int] = field(default_factory=list)


def serve(device: str) -> int:
    """At any other rank: compute what is asked for until rank 0 ends; returns the exit code. Raises RankLostError."""
    state = _Serving()

    def note(number: int, frame: FrameType | None) -> None:
        state.signals.append(number)  # rank 0 decides what a request to end means

    for number in SIGNALS:
        signal.signal(number, note)
    _met[:] = _join(device)
    threading.Thread(target=_watch, args=(state, _met[0]), daemon=True, name="watch of rank 0").start()
    try:
        code = _served(state, _met)
    except KeyboardInterrupt:  # the watch's, where what was being done has been saved
        code = 0
    finally:
        _leave()
    holding.came.clear()  # nobody has interrupted this rank: what the watch has decided is how it ends
    code = code if state.code is None else state.code
    if code:
        print(f"trajmatch: rank {rank()} of {host()}: rank 0 is gone", file=sys.stderr, flush=True)
    return code


def _served(state: _Serving, known: Sequence[Peer]) -> int:
    """Work until rank 0 ends, or is gone; returns the exit code."""
    while True:
        ready = wait([peer.connection for peer in known])
        peer = next(peer for peer in known if peer.connection in ready)
        try:
            words, tensors = peer.asked_for()
        except (OSError, EOFError, RuntimeError):
            if peer.rank == 0:  # it may have said that it ends, where tensors were still to come
                return _how_it_ended(peer)
            known = [other for other in known if other is not peer]  # rank 0 notices, and decides
            continue
        if words == END:
            return 0
        _work(state, peer, words, tensors)
        if state.code is not None:
            return state.code


def _work(state: _Serving, peer: Peer, words: tuple[Function, tuple[Any, ...]], tensors: Sequence[Tensor]) -> None:
    """Do a piece of work and answer."""
    function, arguments = words
    state.turn += 1
    state.peer = peer
    results: Sequence[Tensor] = ()
    try:
        value, results = function(lambda value: peer.tell(("report", value)), *arguments, *tensors)
        answer: tuple[str, Any] = "done", value
    except Exception as error:  # it is raised at the rank that asked
        answer = "failed", (type(error).__name__, next(iter(str(error).splitlines()), "out of memory"))
    state.peer = None
    state.turn += 1
    with suppress(RankLostError):  # the next word from it will be missed
        peer.tell(answer, results)


def _watch(state: _Serving, first: Peer) -> None:
    """Give signs of life while the rank computes, pass signals on, and end with rank 0 also in the midst of work."""
    passed = 0
    while True:
        turn, peer = state.turn, state.peer
        if peer is None:
            time.sleep(BEAT / 10)
        elif first.connection.poll(BEAT) and state.turn == turn:
            state.code = _how_it_ended(first)
            holding.came.append(signal.SIGTERM)
            time.sleep(GRACE)
            os._exit(state.code)
        with suppress(RankLostError):
            if peer is not None and state.turn == turn:
                peer.tell(("alive", None))
            for number in state.signals[passed:]:
                passed += 1
                first.tell(("signal", number))


def _how_it_ended(first: Peer) -> int:
    """The exit code of a rank whose work nobody wants any more: 0 where rank 0 has said so, 1 where it is gone."""
    try:
        return 0 if first.asked_for()[0] == END else 1
    except (OSError, EOFError, RuntimeError):
        return 1


def _join(device: str) -> list[Peer]:
    """Meet the other ranks, in the order of their numbers. Raises RankLostError."""
    try:
        if device == "cuda":
            torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        time_limit = timedelta(seconds=limit())
        store, number, count = next(dist.rendezvous("env://", timeout=time_limit))
        # All attempts of torchrun --max-restarts have one store, in which dead ranks have left their addresses.
        store = dist.PrefixStore(f"attempt {attempt()}", store)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=time_limit)
        return _connected()
    except (RuntimeError, OSError, EOFError) as error:
        raise RankLostError(f"rank {rank()} of {host()} can't meet the other ranks: {error}") from None


def _connected() -> list[Peer]:
    """Connections to all other ranks. Lower ranks accept and higher ones call: none waits for another in a circle."""
    me, key = dist.get_rank(), [os.urandom(32)]
    dist.broadcast_object_list(key, 0, device=torch.device("cpu"))
    where = address()
    with Listener((where if where == "127.0.0.1" else "", 0), backlog=world(), authkey=key[0]) as listener:
        cards: list[Any] = [None] * world()
        port = listener.address[1]
        dist.all_gather_object(cards, ((where, port), f"rank {me} (process {os.getpid()} of {host()})"))
        met: dict[int, Connection[Any, Any]] = {}
        for other in range(me):
            met[other] = Client(cards[other][0], authkey=key[0])
            met[other].send(me)
        while len(met) < world() - 1:
            connection = listener.accept()
            met[connection.recv()] = connection
    for connection in met.values():
        _prompt(connection)
    return [Peer(other, cards[other][1], met[other]) for other in sorted(met)]


def _prompt(connection: "Connection[Any, Any]") -> None:
    """Send words at once: the system would hold each back for 40 ms, to see whether more come."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _leave() -> None:
    """Let go of the group."""
    with suppress(RuntimeError):
        dist.destroy_process_group()
