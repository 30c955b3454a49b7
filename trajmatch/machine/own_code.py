"""Code of the user's: a function or class that every process, and every later command, finds by its module and name.

No torch here.
"""

import inspect
import sys
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

# What code of the user's may raise, and is told in a sentence; Ctrl-C is the user's own.
RAISED_BY_USERS = (Exception, SystemExit)


def imported(asked: str, name: str, example: str) -> Any:
    """What MODULE:NAME stands for; modules beside the current folder are found too.

    asked: the setting with its value, with which sentences begin. example: of such a name. Raises ValueError.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module, _, within = name.partition(":")
    if not module or not within:
        raise ValueError(f"{asked} and must be {example}")
    try:
        return reduce(getattr, within.split("."), import_module(module))
    except RAISED_BY_USERS as error:  # whatever the module does while it is imported
        hint = ", for it was defined in a script or notebook: put it into a module" if module == "__main__" else ""
        raise ValueError(f"{asked}, which can't be imported: {reason(error)}{hint}") from None


def name_of(what: str, thing: Any) -> str:
    """MODULE:NAME of a function, class or object at the top level of a module.

    what: the argument that it was given as, for a sentence. Raises ValueError for what is not found again by its name,
    such as a function that was defined inside another one.
    """
    module = getattr(thing, "__module__", None)
    within = getattr(thing, "__qualname__", None)
    if within is None and (home := sys.modules.get(str(module))) is not None:  # an instance: by the name that holds it
        within = next((name for name, value in inspect.getmembers(home) if value is thing), None)
    found = None
    if module is not None and within is not None and "<" not in within:
        found = reduce(lambda at, part: getattr(at, part, None), within.split("."), sys.modules.get(module))
    if found is not thing:
        shown = within or type(thing).__name__
        raise ValueError(
            f"{what} is {shown}, which can't be found again by its name: define it at the top level of a script, a "
            "notebook or a module, so that other processes and a saved run can name it"
        )
    return f"{module}:{within}"


def reason(error: BaseException) -> str:
    """Why something failed, in one line: the first of what the error says, and its kind where that alone says little.

    >>> reason(KeyError("width")), reason(RuntimeError()), reason(SystemExit(3))
    ("KeyError: 'width'", 'RuntimeError', 'it ends the program (SystemExit: 3)')
    """
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, SystemExit):
        return f"it ends the program (SystemExit{f': {text}' if text else ''})"
    if isinstance(error, RuntimeError | TypeError | ValueError | ImportError | AttributeError) and text:
        return text
    return f"{type(error).__name__}{f': {text}' if text else ''}"
