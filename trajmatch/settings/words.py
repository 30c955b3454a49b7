"""The words of a command line one by one: flags, their short forms, and what they give. No torch here."""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.kinds import flag, kinds
from trajmatch.settings.ranges import is_utf8

LOGGER = logging.getLogger("trajmatch")


class UsageError(ValueError):
    """A command line that can't be understood."""


# Short flags, and old names of flags.
SHORT: Mapping[str, tuple[str, ...]] = {
    "--flat": ("--expert.flat", "yes"),
    "--evaluation.architectures": ("--networks",),
    "--evaluation.sizes": ("--sizes",),
    "--evaluation.ranking": ("--ranking",),
    "--evaluation.rates": ("--rates",),
}
HELP = frozenset(("-h", "--help"))
EVALUATES = "networks", "sizes", "ranking", "rates"


def expand_home(text: str, what: str) -> Path:
    """A path, with the home folder where it begins with ~. Raises UsageError where there is none."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{what} is '{text}', and there is no such home folder") from None


def written_out(words: Sequence[str]) -> list[str]:
    """Short flags and old names written out.

    Raises UsageError for a list of nothing, which would mean the default, and, where no help is asked for, for a value
    of a flag that has its own.
    """
    for word, after in pairwise([*words, "--"]):
        if SHORT.get(word, (word,))[0] in ("--networks", "--sizes", "--rates") and after.startswith("--"):
            raise UsageError(f"{word} needs at least one value")
    found = []
    for word, after in pairwise([*words, "--"]):
        name, equals, value = word.partition("=")
        first, *more = SHORT.get(name, (name,))
        if more and (equals or not after.startswith("-")) and not HELP & set(words):
            said = value if equals else after
            raise UsageError(f"{name} is {said!r} and must have no value: it is short for {' '.join([first, *more])}")
        found += [first + equals + value, *more]
    return found


def flags_of(words: Sequence[str]) -> list[tuple[str, str]]:
    """The flags among words, under one name for all ways to write each, and as they were written."""
    found = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            written = word.split("=")[0]
            name = SHORT.get(written.replace("_", "-"), (written.replace("_", "-"),))[0]
            found.append((re.sub(r"(^--|\.)no-(?=[^.]*$)", r"\1", name), written))
    return found


def refuse_own(word: str, verb: str) -> NoReturn:
    """Refuse what `trajmatch evaluate` alone does."""
    raise UsageError(f"{word} is of trajmatch evaluate, which scores a set in this way; {verb} does not heed it")


def check_words(words: Sequence[str]) -> None:
    """Raise UsageError for an empty value, bytes that are not UTF-8, and one setting under two flags.

    A flag that stands twice is said: the last counts, so that a script can change what it was given.
    """
    last, seen = "", dict[str, str]()
    for word in words:
        if not is_utf8(word):
            raise UsageError(f"{last or 'a name'} has {word!r}, which is not UTF-8: rename it")
        if found := flags_of([word]):
            ((name, last),) = found
            if seen.get(name, last) != last:
                raise UsageError(f"{last} is given twice, as {seen[name]} too: give it once")
            if name in seen:
                LOGGER.warning(f"{last} is given more than once: the last one counts")
            seen[name] = last
        _, equals, value = word.partition("=")
        empty = not (value if found and equals else word).strip()
        if empty and not last.endswith(".augment"):  # of which nothing is as good as none
            raise UsageError(f"{last} is empty and must have a value" if last else "the name after the verb is empty")


def without_config(rest: list[str]) -> tuple[list[str], str | None]:
    words, given = [], None
    remaining = iter(rest)
    for word in remaining:
        if word == "--config":
            given = next(remaining, None)
            if given is None or given.startswith("--"):
                raise UsageError("--config needs the name of a YAML file")
        elif word.startswith("--config="):
            given = word.removeprefix("--config=")
        else:
            words.append(word)
    return words, given


def data_of(rest: Sequence[str]) -> str | None:
    """The last value of --data among words, as it is written."""
    words = written_out(list(rest))
    values = [after for word, after in pairwise(words) if word == "--data"]
    values += [word.removeprefix("--data=") for word in words if word.startswith("--data=")]
    return values[-1] if values else None


def given_keys(rest: Sequence[str]) -> list[str]:
    """The settings that flags and a file give, whatever they give."""
    words, given = without_config(written_out(list(rest)))
    typed = {name for name, _ in flags_of(words)}
    filed = read_config(expand_home(given, "--config")) if given is not None else {}
    return [key for key in kinds(Config) if flag(key) in typed or key in filed]
