"""What a value of Python's is called in a sentence that refuses it."""

from pathlib import Path
from typing import Any

_LONGEST = 80  # signs of a value that is shown


def called(value: Any) -> str:
    """The kind of a value, with its article.

    >>> called(3), called([]), called(None), called(int)
    ('an int', 'a list', 'None', 'the class int')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    # As it is spoken: an ndarray, and a uint8.
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"


def shown(value: Any) -> str:
    """The value itself where it is a word, a path or a number, else its kind.

    >>> shown("runs/a"), shown(3), shown([3])
    ("'runs/a'", '3', 'a list')
    """
    if not isinstance(value, str | Path | int | float):
        return called(value)
    text = repr(str(value)) if isinstance(value, str | Path) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
