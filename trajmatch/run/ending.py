"""How a command ends: its exit code, and one sentence where it failed or was interrupted. No torch here."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from trajmatch.machine.holding import came, check, end_decided
from trajmatch.machine.interrupts import listening

# What an interrupted verb has saved, and what it has not.
KEPT = {
    "run": "experts, outer steps and scored networks that were complete are saved, and what was being trained is not",
    "experts": "experts that were complete are saved, and those that were being trained are not",
    "distill": "experts and outer steps that were complete are saved, and an expert that was being trained is not",
    "evaluate": "networks that were complete are saved, and those that were being trained are not",
    "search": "networks that were complete are saved, and those that were being trained are not",
    "continual": "experts, outer steps and networks that were complete are saved, and what was being trained is not",
    "compare": "pages that were there are whole",
    "diagnose": "its outer steps are saved, and what else it had found is not",
    "report": "the page that was there is whole",
    "plan": "nothing is left of it",
    "presets": "nothing was changed",
}


def ended(words: Sequence[str], command: Callable[[], int], for_good: bool) -> int:
    """Run a command and say what must be said; returns the exit code. for_good: the process ends with it."""
    with listening(for_good):
        try:
            check()  # one that came while the program was loaded
            code, sentence = _attempt(command)
            end_decided()
        except KeyboardInterrupt:
            end_decided()
            code, sentence = 130, _interrupted(words)
        except (Exception, SystemExit):
            # Where an interrupt came, it may have surfaced inside a library as anything.
            if not came:
                raise
            end_decided()
            code, sentence = 130, ""
        # An interrupt that left the text of an `exec`, as dataclasses have one, is remembered by Python: at its end the
        # process would kill itself by SIGINT. Another text's success makes it forget.
        exec("")
        if came:  # also one that Python or a library has swallowed
            code, sentence = 130, _interrupted(words)
        if sentence:
            with suppress(OSError):  # the terminal may be gone
                print(f"trajmatch: {sentence}", file=sys.stderr, flush=True)
    return code


def _attempt(command: Callable[[], int]) -> tuple[int, str]:
    """A command's exit code, and what is to be said where it failed."""
    try:
        return command(), ""
    except (FloatingPointError, MemoryError, ChildProcessError) as error:
        return 1, str(error) or "out of memory"
    except ValueError as error:
        return 2, str(error)
    except OSError as error:
        return 2, _os_error(error)


def _interrupted(words: Sequence[str]) -> str:
    """What is kept and what is lost, and the command that goes on."""
    verb = words[0] if words else ""
    lost = "; the outer steps since the last checkpoint may be lost, for it came twice" if len(came) > 1 else ""
    return f"interrupted; {KEPT.get(verb, 'nothing was begun')}{lost}. To go on: {_again(words)}"


def _again(words: Sequence[str]) -> str:
    resume = ["--resume"] if words and words[0] in ("run", "distill") and "--resume" not in words else []
    return shlex.join(["trajmatch", *words, *resume])


def _os_error(error: OSError) -> str:
    """An operating system's error as one sentence with the file's name."""
    where = f"{error.filename}: " if error.filename is not None else ""
    reason = error.strerror or str(error)
    hints = {28: "; free some space, and the same command with --resume goes on", 13: "; choose another --out"}
    hint = hints.get(error.errno or 0, "")
    return f"{where}{reason[:1].lower()}{reason[1:]}{hint}" if reason else os.strerror(error.errno or 0)
