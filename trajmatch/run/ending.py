"""How a command ends: its exit code, and one sentence where it failed or was interrupted. No torch here."""

import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from trajmatch.machine.holding import came, check, end_decided
from trajmatch.machine.interrupts import listening
from trajmatch.machine.torchrun import RankLostError
from trajmatch.settings.command_line import quoted

NOTHING = "nothing was begun"


def ended(
    words: Sequence[str], command: Callable[[], int], for_good: bool, kept: Callable[[], str] = lambda: NOTHING
) -> int:
    """Run a command and say what must be said; returns the exit code.

    words:    the command line, which an interrupted command repeats.
    for_good: whether the process ends with it.
    kept:     says what is saved, where the command is interrupted, and what is not.
    """
    lost: BaseException | None = None
    with listening(for_good), _while_somebody_reads(for_good):
        try:
            check()  # one that came while the program was loaded
            code, sentence, lost = _attempt(command)
            end_decided()
        except KeyboardInterrupt:
            end_decided()
            code, sentence = 130, _interrupted(words, kept())
        except (Exception, SystemExit):
            # Where an interrupt came, it may have surfaced inside a library as anything.
            if not came:
                raise
            end_decided()
            code, sentence = 130, ""
        # An interrupt that left the text of an `exec`, as dataclasses have one, is remembered by Python: at its end the
        # process would kill itself by SIGINT. Another text's success makes it forget.
        exec("")
        if came and not isinstance(lost, RankLostError):  # also one that Python or a library has swallowed
            code, sentence = 130, _interrupted(words, kept())
        if sentence:
            with suppress(OSError):  # the terminal may be gone
                print(f"trajmatch: {sentence}", file=sys.stderr, flush=True)
    return code


@contextmanager
def _while_somebody_reads(for_good: bool) -> Iterator[None]:
    """End quietly where the program that reads the output has ended, as `head` does: it has had enough."""
    try:
        yield
    finally:
        if for_good and _is_unread():
            # What is written still, when Python ends, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_unread() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    if not hasattr(select, "poll"):  # Windows
        return False
    # What could not be written is forgotten, and writing no more says nothing.
    poll = select.poll()
    with suppress(OSError, ValueError):  # a stdout that is no file
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _attempt(command: Callable[[], int]) -> tuple[int, str, BaseException | None]:
    """A command's exit code, and where it failed what is to be said and the error."""
    try:
        return command(), "", None
    except (FloatingPointError, MemoryError, ChildProcessError) as error:
        return 1, str(error) or "out of memory", error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 1, f"out of memory: {str(error).splitlines()[0]}", error
    except ValueError as error:
        return 2, str(error), error
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_unread():
            return 0, "", None
        return 2, _os_error(error), error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not have the memory that it asked for."""
    said = str(error).lower()
    return any(words in said for words in ("out of memory", "can't allocate memory", "not enough memory"))


def _interrupted(words: Sequence[str], kept: str) -> str:
    """What is kept and what is lost, and the command that goes on."""
    lost = "; the outer steps since the last checkpoint may be lost, for it came twice" if len(came) > 1 else ""
    return f"interrupted; {kept}{lost}. To go on: {_again(words)}"


def _again(words: Sequence[str]) -> str:
    resume = ["--resume"] if words and words[0] in ("run", "distill") and "--resume" not in words else []
    return quoted([*words, *resume])


def _os_error(error: OSError) -> str:
    """An operating system's error as one sentence with the file's name."""
    where = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error)
    hints = {28: "; free some space, and the same command with --resume goes on", 13: "; choose another --out"}
    hint = hints.get(error.errno or 0, "")
    return f"{where}{reason[:1].lower()}{reason[1:]}{hint}" if reason else os.strerror(error.errno or 0)
