"""One walk over the types of a record of settings: what each may be, and a value of it from a flag, a file or Python.

No torch here.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from math import inf
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from trajmatch.settings.ranges import Choice, Range, Shard, Text, number, whole_number

R = TypeVar("R")
Limit = Range | Text | Shard | Choice
# How a file writes truths and nothing, where a word stands without quotes.
TRUE, FALSE, NOTHING = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null", "Null", "NULL", "None")


class Plain(str):
    """A word of a file, written without quotes: it may stand for a number, a truth or nothing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self) if is_number(self) else super().__repr__()


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a setting is: of a type or one of some words, perhaps nothing, perhaps several, within limits."""

    base: Any
    choices: tuple[str, ...] = ()
    optional: bool = False
    several: bool = False
    limits: tuple[Limit, ...] = ()


def kind(hint: Any) -> Kind:
    """The kind that a type hint tells."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        of = kind(arguments[0])
        limits = tuple(x for x in arguments[1:] if isinstance(x, Limit))
        words = tuple(word for x in limits if isinstance(x, Choice) for word in x.words)
        return dataclasses.replace(of, choices=of.choices or words, limits=limits)
    if origin in (Union, UnionType):
        (one,) = (a for a in arguments if a is not NoneType)
        return dataclasses.replace(kind(one), optional=True)
    if origin is tuple:
        return dataclasses.replace(kind(arguments[0]), several=True)
    return Kind(str, choices=arguments) if origin is Literal else Kind(hint)


def kinds(record: type) -> Mapping[str, Kind]:
    """The settings of a dataclass and of the dataclasses in it: {"data": ..., "images.size": ...}."""
    return _kinds(record)


@cache
def _kinds(record: Any) -> Mapping[str, Kind]:
    return dict(_walk(record, ""))


def _walk(record: type, prefix: str) -> Iterator[tuple[str, Kind]]:
    for name, hint in get_type_hints(record, include_extras=True).items():
        if get_origin(hint) is Annotated and dataclasses.is_dataclass(get_args(hint)[0]):
            hint = get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name, kind(hint)


def flag(key: str) -> str:
    """The command line's name of a setting: images.hold_out -> --images.hold-out."""
    return "--" + key.replace("_", "-")


def converted(key: str, of: Kind, value: Any) -> Any:
    """A value of a setting, whatever it came from: 2 is 2.0 where numbers have fractions, a list is a tuple.

    Raises ValueError: a sentence with the flag, the value and what would be right.
    """
    if not of.several:
        return _one(f"{flag(key)} is", of, value)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{flag(key)} is {_shown(value)} and must be a list, such as [{value or 'a, b'}]")
    return tuple(_one(f"{flag(key)} has", of, part) for part in value)


def _one(said: str, of: Kind, value: Any) -> Any:
    """One value. Raises ValueError, which begins with what is said of it."""
    if of.optional and (value is None or (isinstance(value, Plain) and value in NOTHING)):
        return None
    if isinstance(value, list | tuple):
        raise ValueError(f"{said} {list(value)!r} and must be one value, no list")
    # Within a list every word is as written: a class may be called null.
    found = None if isinstance(value, Plain) and value in NOTHING and not of.several else _typed(of, value)
    if found is None:
        raise ValueError(f"{said} {_shown(value)} and must be {_called(of, value)}")
    for limit in of.limits:
        if (right := limit.wrong(found)) is not None:
            raise ValueError(f"{said} {repr(found) if isinstance(found, str) else found} and must be {right}")
    return found


def _typed(of: Kind, value: Any) -> Any:
    """The value in its setting's type, None where it has another."""
    plain = str(value).lower() if isinstance(value, Plain) else None
    if of.choices or of.base is bool:
        truth = True if plain in TRUE else False if plain in FALSE else value if isinstance(value, bool) else None
        if of.base is bool:
            return truth
        text = {True: "yes", False: "no"}[truth] if truth is not None and "yes" in of.choices else str(value)
        return text if text in of.choices or _is_own(of, text) else None
    if isinstance(value, bool):
        return None
    if of.base is int:
        return int(value) if isinstance(value, Integral) else _as_number(whole_number, value)
    if of.base is float:
        return _as_number(number, value) if isinstance(value, str) else _fraction(value)
    if of.base is Path:
        return Path(value) if isinstance(value, str | Path) else None
    return str(value) if isinstance(value, str | Integral | Path) else None


def _is_own(of: Kind, text: str) -> bool:
    """Whether a word stands for code of the user's, where a setting may."""
    return any(isinstance(limit, Choice) and limit.wrong(text) is None for limit in of.limits)


def _as_number(read: Any, value: Any) -> Any:
    """A text read as a number, None where it is none."""
    try:
        return read(str(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def is_number(text: str) -> bool:
    """Whether a text is a number, whole or not."""
    return _as_number(number, text) is not None


def _fraction(value: Any) -> float | None:
    """A number with fractions, None where it is none; a whole number beyond all of them is infinite."""
    try:
        return float(value) if isinstance(value, Real) else None
    except OverflowError:
        return inf


def _shown(value: Any) -> str:
    """A value as a sentence tells it: no longer than it takes to know it."""
    text = "nothing" if value is None or (isinstance(value, Plain) and value in NOTHING) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _called(of: Kind, value: Any) -> str:
    """What a value must be."""
    if of.choices:
        near = get_close_matches(str(value), of.choices, n=1, cutoff=0.6)
        own = ", or MODULE:NAME, code of your own" if any(isinstance(x, Choice) for x in of.limits) else ""
        return f"one of {', '.join(of.choices)}{own}" + (f"; did you mean {near[0]}?" if near else "")
    return {int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(of.base, "words")


def checked(record: R, prefix: str = "") -> R:
    """A dataclass of settings with every value in its type. Raises ValueError for the first that is out of range."""
    own, found = kinds(type(record)), {}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        key, value = field.name, getattr(record, field.name)
        if key in own:
            of = own[key]
            found[key] = converted(prefix + key, of, value)
        elif dataclasses.is_dataclass(value):
            found[key] = checked(value, f"{prefix}{key}.")
        else:
            raise ValueError(f"{flag(prefix + key)} is {_shown(value)} and must be a group of settings")
    return dataclasses.replace(record, **found)  # type: ignore[type-var]


def merged(base: R, flat: Mapping[str, Any], where: str) -> R:
    """The record with the settings of a file or a header over it.

    Raises ValueError, which names where they are from, for a value that is out of range and a name that is none.
    """
    known, found = kinds(type(base)), base
    for key, value in flat.items():
        if key not in known:
            raise ValueError(f"{where}: {_unknown(key, known)}")
        try:
            found = with_setting(found, key, converted(key, known[key], value))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return found


def _unknown(key: str, known: Mapping[str, Kind]) -> str:
    """What to say of a name that is none."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        if (above := ".".join(parts[:count])) in known:
            return f"{flag(above)} is a group of settings and must be one value"
    if any(name.startswith(f"{key}.") for name in known):
        return f"{key} is a group of settings and must have names and values below it"
    near = nearest(key, known)
    return f"there is no setting {key!r}" + (f"; did you mean {near}?" if near else "")


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The name among those that are known which a wrong one may be meant for: the whole of it, or its last part."""
    names = list(known)
    last = {name.split(".")[-1]: name for name in names}
    near = get_close_matches(key, names, n=1, cutoff=0.7)
    near = near or [last[name] for name in get_close_matches(key.split(".")[-1], last, n=1, cutoff=0.75)]
    return near[0] if near else None


def get(record: Any, key: str) -> Any:
    """A setting of the record, by its flat name."""
    for name in key.split("."):
        record = getattr(record, name)
    return record


def with_setting(record: R, key: str, value: Any) -> R:
    """The record with one setting, by its flat name."""
    name, dot, rest = key.partition(".")
    part = with_setting(getattr(record, name), rest, value) if dot else value
    return dataclasses.replace(record, **{name: part})  # type: ignore[type-var]
