"""Independent jobs, shared out over the ranks of a torchrun job; without one they are this process's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from torch import Tensor

from trajmatch.machine import holding
from trajmatch.machine.memory import peak_memory_mb
from trajmatch.machine.peer import Listen as Hear
from trajmatch.machine.peer import Peer
from trajmatch.machine.processes import Listen, Peak, run_tasks
from trajmatch.machine.ranks import lent, peers


def run_over_ranks(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    threads: int,
    listen: Listen = lambda index, value: None,
    peak: Peak | None = None,
) -> Iterator[tuple[int, Any]]:
    """As `run_tasks`: job j is done by rank j mod W of W ranks, each with so many workers.

    A job's result does not depend on the rank that does it, for its arguments say all that it depends on. Files that
    jobs read and write lie where every rank sees them. Raises RankLostError besides.
    """
    ranks = len(peers()) + 1
    asked = {peer: range(k, len(jobs), ranks) for k, peer in enumerate(peers(), 1) if k < len(jobs)}
    if not asked:
        yield from run_tasks(function, jobs, workers, threads, listen, peak)
        return
    for peer, share in asked.items():
        peer.ask(_share, function, [jobs[j] for j in share], workers, threads)
    arrived: list[tuple[int, Any]] = []
    hear = {peer: partial(_hear, share, listen, arrived) for peer, share in asked.items()}

    def tell(k: int, value: Any) -> None:
        _take(asked, hear, peak)
        listen(k * ranks, value)

    own = [jobs[j] for j in range(0, len(jobs), ranks)]
    with lent():
        for k, result in run_tasks(function, own, workers, threads, tell, peak):
            yield k * ranks, result
            _take(asked, hear, peak)
            yield from _emptied(arrived)
        while asked:
            holding.check()
            wait([peer.connection for peer in asked], 0.2)
            _take(asked, hear, peak)
            yield from _emptied(arrived)


def _share(
    report: Hear, function: Callable[..., Any], jobs: list[tuple[Any, ...]], workers: int, threads: int
) -> tuple[float, list[Tensor]]:
    """At another rank: its share of the jobs; returns the memory that they took, and reports the rest."""
    peak = Peak()
    for k, result in run_tasks(function, jobs, workers, threads, lambda k, value: report(("said", k, value)), peak):
        report(("result", k, result))
    return max(peak.mb, peak_memory_mb()), []


def _hear(share: range, listen: Listen, arrived: list[tuple[int, Any]], value: tuple[str, int, Any]) -> None:
    """What a rank reports of its k-th job, as of the job that it is for the caller."""
    kind, k, what = value
    if kind == "said":
        listen(share[k], what)
    else:
        arrived.append((share[k], what))


def _take(asked: dict[Peer, range], hear: Mapping[Peer, Hear], peak: Peak | None) -> None:
    """Take the messages that are there; ranks that are done are asked no more."""
    for peer in list(asked):
        found = peer.message(hear[peer], 0.0)
        while found is None and peer.connection.poll():
            found = peer.message(hear[peer], 0.0)
        if found is not None:
            del asked[peer]
            if peak is not None:
                peak.mb = max(peak.mb, found[0])


def _emptied(arrived: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    found = list(arrived)
    arrived.clear()
    return found
