"""The segments of an outer step over the ranks of a torchrun job, and the chunks of their mini-batches.

Rank r matches segments r, r + W, ... of W ranks. Where a step has K < W segments, rank h >= K helps rank h mod K with
the chunks of its mini-batch, of --micro-batch images each. Rank 0 receives every hypergradient and combines them in the
segments' order, as it sums the chunks' derivatives in their order: the bits do not depend on the number of ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trajmatch.core.estimators import Estimate, Estimator, Task
from trajmatch.core.hypergradient import Hypergradient
from trajmatch.core.inner import Iterates
from trajmatch.core.student import Student, in_turn, micro_batched
from trajmatch.data.networks.convnet import build
from trajmatch.machine.determinism import deterministic
from trajmatch.machine.peer import Peer
from trajmatch.machine.precision import precision
from trajmatch.machine.ranks import peers, peers_of
from trajmatch.methods import engines
from trajmatch.methods.engines import Engine
from trajmatch.methods.outer import Rule, estimator, inner_problem
from trajmatch.run.assembly.setup import device, factory
from trajmatch.settings.config import Config

Report = Callable[[Any], None]
# How many tensors each derivative of a chunk has.
WIDTHS = {"gradient": 1, "mixed": 3, "inputs_alone": 2}


@dataclass(frozen=True)
class Learner:
    """What another rank makes the student of: the configuration, the images' shape, and how to compute."""

    config: Config
    shape: tuple[int, int, int]
    num_classes: int
    engine: Engine

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within the block this process computes as rank 0 does in an outer step."""
        with deterministic(self.config.deterministic, device(self.config.device)), precision(self.config.precision):
            yield


@dataclass
class Chunks:
    """The derivatives of chunks, over this rank and its helpers: chunk c of H helpers goes to rank c mod (H + 1)."""

    learner: Learner
    local: Student
    helpers: list[Peer] = field(default_factory=list)

    def __call__(self, name: str, given: Sequence[tuple[Tensor, ...]]) -> list[Any]:
        """What a derivative gives for the arguments (theta, z, y) of every chunk, or (theta, z, y, a), in order."""
        ranks, found = len(self.helpers) + 1, [None] * len(given)
        asked = {peer: range(j, len(given), ranks) for j, peer in enumerate(self.helpers, 1) if j < len(given)}
        theta, _, _, *a = given[0]
        for peer, share in asked.items():
            parts = [t for c in share for t in given[c][1:3]]
            peer.ask(_derivatives, self.learner, torch.get_num_threads(), name, len(a), tensors=[theta, *a, *parts])
        own = range(0, len(given), ranks)
        values: list[Any] = list(in_turn(self.local)(name, [given[c] for c in own]))
        for c, value in zip(own, values, strict=True):
            found[c] = value
        for peer, share in asked.items():
            _, tensors = peer.answer()
            for c, value in zip(share, _grouped(tensors, WIDTHS[name]), strict=True):
                found[c] = value
        return found


def _grouped(tensors: Sequence[Tensor], width: int) -> list[Any]:
    """Tensors in tuples of so many; alone where it is one."""
    if width == 1:
        return list(tensors)
    return [tuple(tensors[i : i + width]) for i in range(0, len(tensors), width)]


def _derivatives(
    report: Report, learner: Learner, threads: int, name: str, extra: int, theta: Tensor, *rest: Tensor
) -> tuple[None, list[Tensor]]:
    """At a helper: a derivative of its chunks. rest: the adjoint, where `extra` is 1, then z and y of each chunk."""
    torch.set_num_threads(threads)
    a, parts = rest[:extra], rest[extra:]
    with learner.computing():
        given = [(theta, parts[i], parts[i + 1], *a) for i in range(0, len(parts), 2)]
        found = list(in_turn(_students(learner)[1].local)(name, given))
    return None, found if WIDTHS[name] == 1 else [t for one in found for t in one]


@lru_cache(maxsize=1)
def _students(learner: Learner) -> tuple[Student, Chunks]:
    """The student of a rank, and what spreads its chunks."""
    network, _ = build(factory(learner.config.network, learner.shape, learner.num_classes), 0)
    local = engines.student(network.to(device(learner.config.device)), replace(learner.engine, micro_batch=None))
    chunks = Chunks(learner, local)
    return spread_chunks(chunks), chunks


def spread_chunks(chunks: Chunks) -> Student:
    """The local student, with its chunks spread where its engine is micro-batched."""
    size = chunks.learner.engine.micro_batch
    return chunks.local if size is None else micro_batched(chunks.local, size, chunks)


def helpers_of(leader: int, segments: int, ranks: int) -> list[int]:
    """The ranks that help a rank with the chunks of its segment."""
    return list(range(leader + segments, ranks, segments)) if leader < segments else []


@dataclass(frozen=True)
class Piece:
    """A rank's part of one trajectory of an outer step, beside its tensors.

    tasks:   number of the segment, first inner step, and whether the trajectory has a start of its own, for each.
    helpers: ranks that help with the chunks of the mini-batches.
    """

    learner: Learner
    rule: Rule
    threads: int
    seed: int
    step: int
    tasks: list[tuple[int, int, bool]]
    helpers: list[int]


@dataclass(frozen=True)
class Spread:
    """The estimates of a step's tasks over the ranks; an `Each` of methods/outer.py."""

    rule: Rule
    chunks: Chunks

    def __call__(self, estimate: Estimator, given: Sequence[Task], seed: int, step: int) -> list[Estimate]:
        """Estimates in the tasks' order. Raises what a rank raised, or RankLostError."""
        ranks, K = len(peers()) + 1, len(given)
        shares = {peer: range(peer.rank, K, ranks) for peer in peers() if peer.rank < K}
        for peer, share in shares.items():
            tasks = [given[k] for k in share]
            which = [(k, task.first, task.start is not None) for k, task in zip(share, tasks, strict=True)]
            threads, helpers = torch.get_num_threads(), helpers_of(peer.rank, K, ranks)
            piece = Piece(self.chunks.learner, self.rule, threads, seed, step, which, helpers)
            peer.ask(_estimates, piece, tensors=sent(tasks))
        self.chunks.helpers = peers_of(helpers_of(0, K, ranks))
        found = {k: estimate(given[k]) for k in range(0, K, ranks)}
        for peer, share in shares.items():
            lasts, tensors = peer.answer()
            for k, last in zip(share, lasts, strict=True):
                found[k], tensors = _taken(given[k], self.rule, last, tensors)
        return [found[k] for k in range(K)]


def sent(tasks: Sequence[Task]) -> list[Tensor]:
    """X and eta, which are one for all tasks, and s, g, Y and the start of each."""
    each = [t for task in tasks for t in (task.s, task.g, task.Y, task.start) if t is not None]
    return [tasks[0].X, tasks[0].eta, *each]


def _also(rule: Rule, first: int, last: int) -> list[int]:
    """The iterates that the caller will want besides theta_first, which it has."""
    tau = rule.restart(last)
    reused = rule.sharpness is not None and not rule.stale and first < tau < last
    return [tau, last] if reused else [last]


def results_of(rule: Rule, first: int, e: Estimate) -> list[Tensor]:
    """What of an estimate travels: the derivatives, the loss, q, and the iterates that the caller will want."""
    return [*e.d, e.loss, e.q, *(e.thetas[i] for i in _also(rule, first, e.thetas.last))]


def _taken(task: Task, rule: Rule, last: int, tensors: list[Tensor]) -> tuple[Estimate, list[Tensor]]:
    """A task's estimate from the tensors of an answer, and the tensors behind it."""
    dX, dY, deta, loss, q, *rest = tensors
    thetas = Iterates(task.first, last, _never)
    thetas.keep(task.first, task.origin)
    wanted = _also(rule, task.first, last)
    for i, theta in zip(wanted, rest, strict=False):
        thetas.keep(i, theta)
    return Estimate(thetas, loss, q, Hypergradient(dX, dY, deta)), rest[len(wanted) :]


def _never(theta: Tensor, i: int) -> Tensor:
    raise AssertionError("an iterate that another rank has not sent")


def _estimates(report: Report, piece: Piece, *given: Tensor) -> tuple[list[int], list[Tensor]]:
    """At another rank: the estimates of its segments, and the last step of each trajectory."""
    torch.set_num_threads(piece.threads)
    student, chunks = _students(piece.learner)
    chunks.helpers = peers_of(piece.helpers)
    (X, eta, *rest), rule = given, piece.rule
    lasts: list[int] = []
    results: list[Tensor] = []
    with piece.learner.computing():
        estimate = estimator(rule, piece.seed, piece.step)
        for k, first, started in piece.tasks:
            s, g, Y, *rest = rest
            start = rest.pop(0) if started else None
            problem = inner_problem(rule, student, len(X), piece.seed, piece.step, k)
            e = estimate(rule.task(problem, s, g, X, Y, eta)._replace(first=first, start=start))
            lasts.append(e.thetas.last)
            results += results_of(rule, first, e)
    return lasts, results


def sharing(segments: int, images: int, micro_batch: int | None) -> str:
    """How a step's work is shared out, in words. segments: K, the most of a step. images: of an inner mini-batch."""
    ranks = len(peers()) + 1
    chunks = 1 if micro_batch is None else -(-images // micro_batch)
    busy = min(ranks, segments * chunks) if segments < ranks else ranks
    how = f"{segments} segment{'s' if segments > 1 else ''} of {chunks} chunk{'s' if chunks > 1 else ''} a step"
    if busy == ranks:
        return f"ranks: {ranks}, {how}"
    remedy = "--micro-batch shares the images of a segment out" if chunks == 1 else "a smaller --micro-batch is shared"
    return f"ranks: {ranks}, of which {ranks - busy} wait while the set is distilled, with {how}; {remedy}"
