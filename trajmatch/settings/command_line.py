"""The words of a command line: presets, files, flags and folders. Nothing here imports torch before it must."""

import dataclasses
import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from trajmatch.settings.checks import check_heeded
from trajmatch.settings.choices import NOTHING_LEFT, OPEN, Left, left_open
from trajmatch.settings.config import Config
from trajmatch.settings.config_file import read_config
from trajmatch.settings.heeded import idle
from trajmatch.settings.kinds import checked, flag, get, kinds, merged, with_setting
from trajmatch.settings.minutes import FIT
from trajmatch.settings.presets import ANY_IMAGES, DEFAULT, NAMES, PUBLISHED, preset
from trajmatch.settings.ranges import number, whole_number
from trajmatch.settings.typed import check_typed
from trajmatch.settings.words import (
    EVALUATES,
    HELP,
    UsageError,
    data_of,
    expand_home,
    flags_of,
    given_keys,
    refuse_own,
    without_config,
    written_out,
)

LOGGER = logging.getLogger("trajmatch")


class Asked(NamedTuple):
    """Settings as a command line asks for them: where they start, what they are after file and flags, the file."""

    base: Config
    config: Config
    given: str | None = None
    options: Any = None
    """What the verb has of its own."""
    left: Left = NOTHING_LEFT
    """The settings that the images decide, or the minutes that there are."""


@dataclasses.dataclass(frozen=True)
class Nothing:
    """A verb without options of its own."""


def settings_of(verb: str, name: str | None, rest: list[str], own: type = Nothing) -> Asked:
    """The settings of a verb that starts from a preset. Raises ValueError."""
    program, base = f"trajmatch {verb}", preset(name or DEFAULT)
    _check_own(verb, rest)
    if name is None and data_of(rest) not in (None, base.data):
        base = preset(ANY_IMAGES)  # at once, so that --help shows what holds
    asked = configuration(program, base, rest, own)
    if name is None and asked.config.data != preset(DEFAULT).data:
        if base != preset(ANY_IMAGES):  # a file has named the images
            base = preset(ANY_IMAGES)
            asked = configuration(program, base, rest, own)
        asked = asked._replace(left=Left(left_open(given_keys(rest))))
    if (minutes := getattr(asked.options, "minutes", None)) is not None:
        checked(asked.options)
        asked = asked._replace(left=Left(asked.left.keys | (frozenset(FIT) - {*given_keys(rest)}), minutes))
    if name in PUBLISHED and asked.config.method != base.method:
        numbers = preset(name, asked.config.method)  # a published preset has other numbers for each method
        asked = configuration(program, numbers, rest, own)
        base = dataclasses.replace(numbers, method=base.method)
    if asked.given is None:  # a file tells all settings, of whatever method
        check_heeded(base, asked.config)
    if verb not in ("experts", "presets") and asked.config.expert.shard is not None:
        raise ValueError(
            f"--expert.shard is {asked.config.expert.shard}, which trajmatch experts alone heeds: train the parts with "
            "it, and name their folder by --experts"
        )
    tell_idle(verb, rest, asked)
    return asked._replace(base=base)


def tell_idle(verb: str, rest: Sequence[str], asked: Asked) -> list[str]:
    """Say which of the flags that were given, and that change a setting, have no effect. Returns these settings."""
    typed = {name for name, _ in flags_of(rest)}
    keys = [key for key in kinds(Config) if flag(key) in typed and get(asked.config, key) != get(asked.base, key)]
    reasons = idle(verb, asked.config, asked.options, keys)
    for reason, found in reasons.items():
        many = len(found) > 1
        LOGGER.warning(f"{', '.join(map(flag, found))} {'have' if many else 'has'} no effect with {reason}")
    return [key for found in reasons.values() for key in found]


def put_back(asked: Asked, keys: Sequence[str]) -> Asked:
    """What was asked, with some settings as they would be without their flags: a set that exists has its own."""
    config = asked.config
    for key in keys:
        config = with_setting(config, key, get(asked.base, key))
    return asked._replace(config=config)


def _check_own(verb: str, rest: Sequence[str]) -> None:
    """Refuse what `trajmatch evaluate` alone does."""
    for name, word in flags_of(rest):
        if name.removeprefix("--") in EVALUATES:
            refuse_own(word, verb)


def default_folder(name: str | None, base: Config, config: Config) -> Path:
    """runs/PRESET, with what the everyday flags changed: runs/cifar10-16px-ipc10-seed3."""
    if name is None:
        name = DEFAULT if base == preset(DEFAULT) else _name_of(config.data)
    changed = [
        f"{key}{getattr(config, key)}" if key != "method" else config.method
        for key in ("ipc", "method", "steps", "seed")
        if getattr(config, key) != getattr(base, key)
    ]
    return Path("runs") / "-".join([name, *changed])


def _name_of(data: str) -> str:
    """What --data is called in the name of a folder."""
    if data.startswith("hf:"):
        return re.sub(r"[^\w.]+", "-", data.split("/")[-1].removeprefix("hf:"))
    named = Path(data).stem
    return (Path(data).resolve().name if named in ("", "..") else named) or "images"


def place(name: str | None) -> Path:
    """A run folder or a file by its path, or by the preset that it was made from."""
    return expand_home(name, "the name") if name and name not in NAMES else Path("runs") / (name or DEFAULT)


def at_home(options: Any) -> Any:
    """Options with every path that begins with ~ in the home folder."""
    found = {}
    for name, of in kinds(type(options)).items():
        if of.base is Path and (value := getattr(options, name)) is not None:
            found[name] = (
                tuple(expand_home(str(v), flag(name)) for v in value)
                if of.several
                else expand_home(str(value), flag(name))
            )
    return dataclasses.replace(options, **found)


def quoted(words: Sequence[str]) -> str:
    """A command as a shell takes it."""
    return shlex.join(["trajmatch", *words])


def name_first(rest: list[str]) -> tuple[str | None, list[str]]:
    """The word after the verb, where it is no flag, and what follows."""
    if rest and not rest[0].strip():
        raise UsageError("the name after the verb is empty")
    if rest and not rest[0].startswith("-"):
        return rest[0], rest[1:]
    return None, rest


def configuration(program: str, base: Config, rest: list[str], own: type = Nothing) -> Asked:
    """The preset, changed by the file, changed by the flags. Raises ValueError; exits 0 where help is asked for."""
    rest, given = without_config(written_out(rest))
    if given is not None:
        path = expand_home(given, "--config")
        base = merged(base, read_config(path, by_hand=True), given)
    about = DESCRIPTION if base != preset(ANY_IMAGES) else f"{DESCRIPTION} {BY_IMAGES}"
    both = dataclasses.make_dataclass("both", [("options", _flat(own), own()), ("config", _flat(Config), base)])
    found = parse(both, program, rest, both(own(), base), about)
    config = checked(found.config)
    places = {
        name: str(expand_home(value, flag(name)))
        for name in ("out", "experts")
        if (value := getattr(config, name)) is not None and value.startswith("~")
    }
    return Asked(base, dataclasses.replace(config, **places), given, found.options)


def _flat(record: type) -> Any:
    """The dataclass as a field whose own name is no part of its flags."""
    import tyro

    return Annotated[record, tyro.conf.arg(name="")]


def parse(record: type, program: str, rest: list[str], default: Any, about: str) -> Any:
    """A dataclass from flags. Raises ValueError; exits 0 where help is asked for, whatever stands beside it."""
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    helping = bool(HELP & set(rest))
    if not helping:
        check_typed(record, program, rest)
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def numbers(info: PrimitiveTypeInfo) -> Any:
        """Plain digits alone: Python would read 1_000 and digits of any alphabet too."""
        reads = {int: whole_number, float: number}
        if info.type not in reads:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=info.type.__name__.upper(),
            instance_from_str=lambda words: reads[info.type](words[0]),
            is_instance=lambda value: isinstance(value, info.type),
            str_from_instance=lambda value: [str(value)],
        )

    words = ["--help"] if helping else rest
    return tyro.cli(record, args=words, prog=program, default=default, description=about, registry=registry)


DESCRIPTION = "[PRESET] names where the settings start; --config FILE reads settings from YAML; flags change both."
BY_IMAGES = f"Without a PRESET the images decide, where no flag does: {', '.join(map(flag, OPEN))}."
