"""Settings out of a file that this package wrote, checked before they are used. No torch here."""

from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from trajmatch.run.config import Config
from trajmatch.run.folder import flags
from trajmatch.run.settings import DEFAULTS, flag


def check_held(path: Path, flat: Mapping[str, Any], remedy: str) -> None:
    """Raise ValueError, with the file, the setting and its value, where flat settings are no configuration's."""
    for key, value in flat.items():
        default = DEFAULTS.get(key)
        if not isinstance(key, str) or key not in DEFAULTS:
            raise ValueError(f"{path}: it has a setting '{key}', which there is not; {remedy}")
        if (value is None and default is not None) or (isinstance(default, list) and not isinstance(value, list)):
            raise _wrong(path, key, value, remedy)
    if _is_parsed(flat):
        return
    # The first setting with which those up to it are refused, found by halves: to parse them takes a tenth of a second.
    keys = list(flat)
    taken, refused = 0, len(keys)
    while refused - taken > 1:
        middle = (taken + refused) // 2
        if _is_parsed({key: flat[key] for key in keys[:middle]}):
            taken = middle
        else:
            refused = middle
    raise _wrong(path, keys[taken], flat[keys[taken]], remedy)


def _wrong(path: Path, key: str, value: Any, remedy: str) -> ValueError:
    return ValueError(f"{path}: its setting {flag(key)} is {value!r}, which it cannot be; {remedy}")


def _is_parsed(flat: Mapping[str, Any]) -> bool:
    """Whether the command line takes the settings."""
    import tyro

    # What tyro says is of flags that nobody gave, and it says it without being asked.
    try:
        with redirect_stderr(StringIO()):
            tyro.cli(Config, args=flags(dict(flat)), prog="trajmatch", console_outputs=False)
    except SystemExit:
        return False
    return True
