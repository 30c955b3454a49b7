"""Flags and values as they were typed, and what is wrong with them in one sentence. No torch here.

The parser, tyro, would say it in a box of several lines. Words are grouped here as it groups them, and every value is
held to the rules of files and Python, so that it has nothing left to refuse.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trajmatch.settings.kinds import FALSE, TRUE, Kind, converted, flag, is_number, kinds, nearest
from trajmatch.settings.words import EVALUATES, UsageError, flags_of, refuse_own


class Typed(NamedTuple):
    """A flag as it was typed, and the words behind it; words before any flag have none."""

    word: str
    values: list[str]
    attached: bool = False
    """Whether the first value stands behind an equals sign."""


def check_typed(record: type, program: str, words: Sequence[str]) -> None:
    """Raise ValueError for the first flag that there is not, the first word too many or value that cannot be.

    record:  a dataclass of settings; groups called `options` and `config` are no part of a flag's name.
    program: how the verb is called, which begins with the program's name and the verb.
    """
    known = {key.removeprefix("options.").removeprefix("config."): of for key, of in kinds(record).items()}
    names = {flag(key): key for key in known} | {_contrary(key): key for key, of in known.items() if of.base is bool}
    verb = program.removeprefix("trajmatch ").split()[0]
    see = f"see trajmatch {verb} --help"
    for typed in grouped(words):
        if not typed.word:
            raise UsageError(f"{typed.values[0]!r} is one name too many: only flags can follow here; {see}")
        key = names.get(typed.word.replace("_", "-"))
        if key is None:
            if typed.word.removeprefix("--") in EVALUATES:
                refuse_own(typed.word, verb)
            near = _near(typed.word, known)
            raise UsageError(f"there is no flag {typed.word}; {f'did you mean {near}?' if near else see}")
        _check_values(typed, key, known[key])


def grouped(words: Sequence[str]) -> list[Typed]:
    """Every flag with the words up to the next one, and first the words before any flag, where there are some."""
    found = [Typed("", [])]
    for word in words:
        if _is_flag(word):
            name, equals, value = word.partition("=")
            found.append(Typed(name, [value] if equals else [], bool(equals)))
        else:
            found[-1].values.append(word)
    return found if found[0].values else found[1:]


def _is_flag(word: str) -> bool:
    """Whether a word is a flag's name, and no value such as -5 or -inf."""
    name = word.partition("=")[0]
    begins = re.match(r"-+[^\W\d_]", name) is not None
    return word == "--" or (begins and re.fullmatch(r"-(inf|infinity|nan)", name, re.IGNORECASE) is None)


def _contrary(key: str) -> str:
    """The flag that says no: images.hold_out -> --images.no-hold-out."""
    group, dot, name = flag(key).removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"


def _near(word: str, known: Mapping[str, Kind]) -> str | None:
    """The flag that is meant by one that there is not, None where none is called nearly so."""
    ((name, _),) = flags_of([f"--{word.lstrip('-')}"]) or [("", "")]
    near = nearest(name.removeprefix("--").replace("-", "_"), (*known, *EVALUATES)) if name else None
    return near and flag(near)


def _check_values(typed: Typed, key: str, of: Kind) -> None:
    """Raise ValueError for a flag with too few or too many words behind it, and for a word that is no value of it."""
    word, values, switch = typed.word, typed.values, of.base is bool
    if not (values or switch):
        raise UsageError(f"{word} needs {'at least one value' if of.several else 'a value'}")
    if switch and typed.attached:
        says = f"{flag(key)} says yes, {_contrary(key)} says no"
        raise UsageError(f"{word} is {values[0]!r} and must have no value: {says}")
    most = 0 if switch else len(values) if of.several else 1
    for value in values[:most]:
        if not (of.optional and value == "None"):
            converted(key, of, [value] if of.several else value)
    if values[most:]:
        more = values[most]
        named = "" if is_number(more) or more.lower() in TRUE + FALSE else "; a name stands right after the verb"
        raise UsageError(f"{more!r} is one word too many: {word} takes {'no' if switch else 'one'} value{named}")
