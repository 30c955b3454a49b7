"""Independent jobs in fresh processes, with messages from inside them and a clean end on Ctrl-C."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event, Semaphore
from typing import Any, NamedTuple, TypeVar

import torch

from trajmatch.machine import holding
from trajmatch.machine.interrupts import SIGNALS
from trajmatch.machine.memory import keep_freed_memory, peak_memory_mb, resident_mb
from trajmatch.machine.orphans import begin, end_with_parent
from trajmatch.machine.precision import precision, set_precision
from trajmatch.machine.torchrun import local_rank, local_world

# What a job is given to say how far it is, and what its caller hears: (the job's index, what was said).
Report = Callable[[Any], None]
Listen = Callable[[int, Any], None]
R = TypeVar("R")

# Seconds that workers have to save what they can when they are interrupted; one that still starts has nothing to save.
GRACE = 5.0
FEWER = ": fewer --expert.workers or --evaluation.workers need less, and what is complete is kept"


class WorkerLostError(ChildProcessError):
    """A worker process ended without a result."""


def cores() -> int:
    """Cores this process may use: its part of them where torchrun has started several processes on this machine."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // local_world())


def processes(asked: int | None, device: str) -> int:
    """Processes that train at once on a kind of device: those that were asked for, or one per core (one on a GPU)."""
    return asked or (cores() if device == "cpu" else 1)


_queue: "SimpleQueue[tuple[int, Any]]"
# What the job that runs in this worker does before an interrupt ends the process.
_last: list[Callable[[], None]] = []


class _Ending(NamedTuple):
    """How a parent asks its workers to save what they can, and how each says that this is done."""

    asked: Event
    done: Semaphore


def _start(queue: "SimpleQueue[tuple[int, Any]]", threads: int, ending: _Ending) -> None:
    global _queue  # a worker's only way to be handed something that cannot travel with a job
    _queue = queue
    threading.Thread(target=_save_at_the_end, args=(ending,), daemon=True, name="last words").start()
    keep_freed_memory()
    set_precision("float32")
    torch.set_num_threads(threads)
    if local_rank() and torch.cuda.is_available():
        torch.cuda.set_device(local_rank())


def _save_at_the_end(ending: _Ending) -> None:
    """In a thread of a worker: a step can take long, and nothing in it looks out for a request to end."""
    ending.asked.wait()
    for save in _last:
        save()
    ending.done.release()


@contextmanager
def saving(save: Callable[[], None]) -> Iterator[None]:
    """Within the block an interrupt that ends this process calls `save` before, in a worker from another thread."""
    _last.append(save)
    try:
        yield
    except KeyboardInterrupt:
        save()
        raise
    finally:
        _last.remove(save)


def _work(function: Callable[..., Any], index: int, arguments: tuple[Any, ...]) -> tuple[Any, float]:
    result = function(*arguments, lambda value: _queue.put((index, value)))
    return result, peak_memory_mb()


class Peak:
    """The most memory that this process and its workers had at once, in MB; 0 while none has ended.

    It is an upper bound: each worker counts with the largest size that one of them reached, shared pages included.
    """

    def __init__(self) -> None:
        self.mb = 0.0


def run_tasks(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    threads: int,
    listen: Listen = lambda index, value: None,
    peak: Peak | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run `function(*job, report)` for every job; yield (index, result) as they finish, and pass on what they report.

    workers: processes at once; 1 runs the jobs here, one after another. threads: torch's, in each process. A job's
    result must not depend on which process runs it. An exception in a job stops all of them and is raised here;
    WorkerLostError where a worker was killed.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from _run_here(function, jobs, threads, listen)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has used torch's threads can hang
    queue: SimpleQueue[tuple[int, Any]] = context.SimpleQueue()
    ending = _Ending(context.Event(), context.Semaphore(0))
    starting = f"{__name__}.{_start.__name__}", queue, threads, ending
    with ProcessPoolExecutor(workers, context, begin, starting) as executor, _ended_at_once(executor, FEWER, ending):
        with _blocked():
            waiting: dict[Future[tuple[Any, float]], int] = {
                executor.submit(_work, function, index, job): index for index, job in enumerate(jobs)
            }
        while waiting:
            holding.check()
            finished, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            while not queue.empty():
                listen(*queue.get())
            for future in finished:
                result, memory = future.result()
                if peak is not None:
                    peak.mb = max(peak.mb, resident_mb() + memory * workers)
                yield waiting.pop(future), result


def run_apart(function: Callable[..., R], *arguments: Any) -> R:
    """Call a function in a fresh process, whose memory holds nothing else. Raises WorkerLostError if it is killed."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, end_with_parent) as executor, _ended_at_once(executor):
        with _blocked():
            future = executor.submit(function, *arguments)
        while not future.done():
            holding.check()
            wait([future], timeout=0.2)
        return future.result()


@contextmanager
def _ended_at_once(executor: ProcessPoolExecutor, remedy: str = "", ending: _Ending | None = None) -> Iterator[None]:
    """End all workers where the block fails. Raises WorkerLostError, with a remedy, where one of them was killed.

    ending: how they are asked to save what they can before, where it is an interrupt.
    """
    try:
        yield
    except BrokenProcessPool:
        _wait_for_own_signal()
        raise WorkerLostError(f"a worker process was killed, most likely for lack of memory{remedy}") from None
    except BaseException as error:
        try:
            if ending is not None and isinstance(error, KeyboardInterrupt):
                _wait_for_last_words(ending, len(executor._processes or {}))
        finally:
            _end(executor)
        raise


def _wait_for_last_words(ending: _Ending, workers: int) -> None:
    until = time.monotonic() + GRACE
    ending.asked.set()
    for _ in range(workers):
        if not ending.done.acquire(timeout=max(0.0, until - time.monotonic())):
            return


def _end(executor: ProcessPoolExecutor) -> None:
    """End all processes at once.

    `shutdown(cancel_futures=True)` alone would wait for the jobs that run now, and workers are deaf to `terminate`.
    """
    for process in list((executor._processes or {}).values()):
        process.kill()
    executor.shutdown(cancel_futures=True)


@contextmanager
def _blocked() -> Iterator[None]:
    """Start processes that are deaf to requests to end: those reach a whole group, and the parent alone decides.

    What comes meanwhile waits for the parent. A worker inherits the mask, from its first moment on.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_own_signal(seconds: float = 1.0) -> None:
    """Where somebody ends all processes, one after another, a worker's end may be seen before the own request comes."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        holding.check_now()
        time.sleep(0.02)


def _run_here(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], threads: int, listen: Listen
) -> Iterator[tuple[int, Any]]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for index, job in enumerate(jobs):
            holding.check()
            with precision("float32"):
                result = function(*job, partial(listen, index))
            yield index, result
    finally:
        torch.set_num_threads(before)
