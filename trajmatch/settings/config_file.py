"""A YAML file of settings, read as it is written: `no` may be a class's name, and 1e3 is a number. No torch here."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trajmatch.settings.config import Config
from trajmatch.settings.flat import RETIRED
from trajmatch.settings.kinds import NOTHING, Plain, converted, kinds

LOGGER = logging.getLogger("trajmatch")
# A configuration has some kilobytes, a few hundred lines and two levels.
LARGEST, MOST, DEEPEST = 1_000_000, 10_000, 20
GROUPS = {key.split(".")[0] for key in kinds(Config) if "." in key}
# Tags that words, lists and groups have without being given any.
SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value")}
LIST, GROUP = "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"


def read_config(path: Path, by_hand: bool = False) -> dict[str, Any]:
    """The settings of a YAML file, flat, those that are known in their types; without those of older versions.

    by_hand: whether a value that is left out is told, because it is of `trajmatch evaluate` alone now.

    Raises ValueError naming the file and what is wrong with it.
    """
    found: dict[str, Any] = {}
    text = _text(path)
    try:
        for key, value, line in _settings(_root(text), ""):
            if key in found:
                raise ValueError(f"line {line} gives {key} a second time: leave one out")
            found[key] = converted(key, kinds(Config)[key], value) if key in kinds(Config) else value
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {_complaint(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for key in RETIRED & found.keys():
        if by_hand and found[key] not in RETIRED[key]:
            name = "networks" if key.endswith("architectures") else key.split(".")[1]
            LOGGER.warning(f"{path}: {key} is left out; it is --{name} of trajmatch evaluate")
    lists = {key: list(value) for key, value in found.items() if isinstance(value, tuple)}
    return {key: value for key, value in {**found, **lists}.items() if key not in RETIRED}


def _text(path: Path) -> str:
    """What a file says. Raises ValueError where it can't be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)  # no more, for a pipe or a device may have no end
    except FileNotFoundError:
        raise ValueError(f"--config: there is no file {path}") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST:,} bytes, which no configuration has")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not YAML: its byte {error.start}, 0x{data[error.start]:02x}, is no UTF-8"
        ) from None


def _root(text: str) -> yaml.MappingNode:
    """The tree of a file. Raises ValueError for one that is too deep or no group, and YAMLError."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"line {_line(event)} is more than {DEEPEST} levels deep, and settings two")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("a configuration is a list of names and values, such as ipc: 10")
    return root


def _settings(node: yaml.MappingNode, prefix: str, merges: bool = True) -> Iterator[tuple[str, Any, int]]:
    """Name, value and line of every setting of a group, then those that it merges in and does not give itself."""
    _check_tag(node, GROUP)
    names: dict[str, int] = {}
    merged = None
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line} has a list or a group where the name of a setting must be")
        name = prefix + key.value.replace("-", "_")
        if name in names:
            raise ValueError(f"line {line} gives {name} a second time, after line {names[name]}: leave one out")
        names[name] = line
        if key.value == "<<" and key.style is None:
            merged = value
        elif name not in GROUPS:
            yield name, _value(name, value), line
        elif isinstance(value, yaml.MappingNode):
            yield from _settings(value, f"{name}.")
        elif not (isinstance(value, yaml.ScalarNode) and Plain(value.value) in NOTHING):  # all of it commented out
            raise ValueError(f"line {line} has a value for {name}, which is a group: give names and values below it")
    if merged is None:
        return
    if not isinstance(merged, yaml.MappingNode) or not merges:
        raise ValueError(f"line {merged.start_mark.line + 1} merges in what is not one plain group")
    yield from (
        (name, value, line) for name, value, line in _settings(merged, prefix, merges=False) if name not in names
    )


def _value(name: str, node: yaml.Node) -> Any:
    """One word, or a list of words. Raises ValueError for anything else."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        what = "one setting" if name in kinds(Config) else "no group of settings"
        raise ValueError(f"line {line} has names and values below {name}, which is {what}")
    if isinstance(node, yaml.ScalarNode):
        _check_tag(node, *SCALARS)
        return node.value if node.style else Plain(node.value)
    _check_tag(node, LIST)
    if len(node.value) > MOST:
        raise ValueError(f"line {line} has {len(node.value)} values for {name}, where {MOST} are the most")
    if not all(isinstance(part, yaml.ScalarNode) for part in node.value):
        raise ValueError(f"line {line} has a list or a group within the list of {name}")
    return [_value(name, part) for part in node.value]


def _check_tag(node: yaml.Node, *known: str) -> None:
    """Raise ValueError for a tag, such as !!python/name, that no setting has."""
    if node.tag not in known:
        raise ValueError(f"line {node.start_mark.line + 1} has the tag {node.tag}, which settings do not have")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _complaint(error: Exception) -> str:
    """What PyYAML says of a file, as one sentence with the line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "context", None) or " ".join(str(error).split())
    return f"{problem}{f' in line {mark.line + 1}, column {mark.column + 1}' if mark else ''}"
