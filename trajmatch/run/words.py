"""The words of a command line: presets, files, flags and folders. Nothing here imports torch before it must."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from trajmatch.run.config import Config
from trajmatch.run.presets import ANY_IMAGES, DEFAULT, NAMES, PUBLISHED, preset
from trajmatch.run.settings import check_heeded


class UsageError(ValueError):
    """A command line that can't be understood."""


def settings_of(verb: str, name: str | None, rest: list[str]) -> tuple[Config, Config, str | None]:
    """Where the settings start, what they are after file and flags, and the file's name."""
    program, base = f"trajmatch {verb}", preset(name or DEFAULT)
    config, given = configuration(program, base, rest)
    if name is None and config.data != base.data:
        base = preset(ANY_IMAGES)
        config, given = configuration(program, base, rest)
    if name in PUBLISHED and config.method != base.method:
        numbers = preset(name, config.method)  # a published preset has other numbers for each method
        config, given = configuration(program, numbers, rest)
        base = replace(numbers, method=base.method)
    if given is None:  # a file tells all settings, of whatever method
        check_heeded(base, config)
    return base, config, given


def default_folder(name: str | None, base: Config, config: Config) -> Path:
    """runs/PRESET, with what the everyday flags changed: runs/cifar10-16px-ipc10-seed3."""
    if name is None:
        name = DEFAULT if base == preset(DEFAULT) else Path(config.data).stem or "images"
    changed = [
        f"{key}{getattr(config, key)}" if key != "method" else config.method
        for key in ("ipc", "method", "steps", "seed")
        if getattr(config, key) != getattr(base, key)
    ]
    return Path("runs") / "-".join([name, *changed])


def named(name: str | None) -> Path:
    """A run folder or a file by its path, or by the preset that it was made from."""
    return Path(name) if name and name not in NAMES else Path("runs") / (name or DEFAULT)


def positional(rest: list[str]) -> tuple[str | None, list[str]]:
    """The word after the verb, where it is no flag, and what follows."""
    if rest and not rest[0].strip():
        raise UsageError("the name after the verb is empty")
    if rest and not rest[0].startswith("-"):
        return rest[0], rest[1:]
    return None, rest


def configuration(program: str, base: Config, rest: list[str]) -> tuple[Config, str | None]:
    """The preset, changed by the file, changed by the flags; and the file's name. Exits 2 on a wrong flag."""
    import tyro

    rest, given = without_config(expanded(rest))
    words = list(rest)
    if given is not None:
        from trajmatch.run.folder import flags, read_config

        words = flags(read_config(Path(given))) + words
    return tyro.cli(Config, args=words, default=base, prog=program, description=DESCRIPTION), given


DESCRIPTION = "[PRESET] names where the settings start; --config FILE reads settings from YAML; flags change both."


def expanded(words: list[str]) -> list[str]:
    """Short flags written out. Raises UsageError for a list of nothing, which would mean the default."""
    for word, after in pairwise([*words, "--"]):
        if word in ("--networks", "--sizes", "--evaluation.rates") and after.startswith("--"):
            raise UsageError(f"{word} needs at least one value")
    short = {"--flat": ("--expert.flat", "yes"), "--networks": ("--evaluation.architectures",)}
    short |= {"--ranking": ("--evaluation.ranking",), "--sizes": ("--evaluation.sizes",)}
    return [part for word in words for part in short.get(word, (word,))]


def without_config(rest: list[str]) -> tuple[list[str], str | None]:
    words, given = [], None
    remaining = iter(rest)
    for word in remaining:
        if word == "--config":
            given = next(remaining, None)
            if given is None:
                raise UsageError("--config needs the name of a YAML file")
        elif word.startswith("--config="):
            given = word.removeprefix("--config=")
        else:
            words.append(word)
    return words, given


def prepare() -> None:
    from trajmatch.run.compute import prepare_process

    prepare_process()
