"""What torchrun tells a process about its job, in the environment; and the loss of one of them. No torch here."""

import os
import socket


class RankLostError(ChildProcessError):
    """A rank has ended, does not answer, or failed in what it was asked for."""


def _number(name: str, default: int) -> int:
    """A variable's whole number. Raises ValueError."""
    given = os.environ.get(name, str(default))
    if not given.isdigit():
        raise ValueError(f"{name} is '{given}' in the environment and must be a whole number, as torchrun sets it")
    return int(given)


def world() -> int:
    """How many processes the job has; 1 without torchrun. Raises ValueError."""
    found = _number("WORLD_SIZE", 1)
    if found > 1 and (missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]):
        raise ValueError(f"WORLD_SIZE is {found} in the environment without {missing[0]}: start the job by torchrun")
    return max(1, found)


def rank() -> int:
    """This process's number in the job, from 0. Raises ValueError."""
    return _number("RANK", 0) if world() > 1 else 0


def local_rank() -> int:
    """This process's number among those of its machine: that of its GPU. Raises ValueError."""
    return _number("LOCAL_RANK", 0) if world() > 1 else 0


def local_world() -> int:
    """How many processes of the job this machine has. Raises ValueError."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1)) if world() > 1 else 1


def attempt() -> int:
    """How often torchrun has started a job of one machine again; 0 on several, each of which has a count of its own.

    Raises ValueError.
    """
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if local_world() == world() else 0


def address() -> str:
    """Where other ranks find this process: its loopback where all are on one machine."""
    if local_world() == world():
        return "127.0.0.1"
    master = os.environ["MASTER_ADDR"]
    if _number("GROUP_RANK", 0) == 0:
        return master
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent: it asks for the route
        probe.connect((master, int(os.environ["MASTER_PORT"])))
        return str(probe.getsockname()[0])
