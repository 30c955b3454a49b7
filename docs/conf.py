"""The site of the documentation: `sphinx-build -W docs FOLDER`, with the extra docs."""

import inspect
import re
from dataclasses import fields, is_dataclass
from importlib import metadata
from typing import Any, get_type_hints

from trajmatch.settings.config import Config

project = "trajmatch"
author = "The trajmatch authors"
version = release = metadata.version("trajmatch")
html_title = f"trajmatch {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"

myst_heading_anchors = 3
highlight_language = "text"
smartquotes = False  # flags have two hyphens

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True


def prose(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain English with names in backticks and a line or more for each argument: as reStructuredText.

    A line `word: text` is an argument's where the function, or the class, has a parameter of that name.
    """
    try:
        parameters = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        parameters = set()
    out: list[str] = []
    inside = False
    for line in lines:
        text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line) if not line.startswith((" ", ">>>")) else line
        text = re.sub(r"(?<![`\w])\*(?=\w)", r"\\*", text) if "``" not in text else text
        told = re.match(r"(\w+):\s+(.*)", text)
        if told and told[1] in parameters:
            out += [*([""] if not inside else []), f":param {told[1]}: {told[2]}"]
            inside = True
        elif re.match(r"Raises \w+", text):
            out += ["", text]
            inside = False
        else:
            inside = inside and bool(text.strip())
            out.append(f"    {text.strip()}" if inside else text)
    lines[:] = out


def short(app: Any, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, None] | None:
    """No signature for a group of settings, which stand below it one by one."""
    return ("", None) if what == "class" and thing.__module__.startswith("trajmatch.settings.") else None


def setup(app: Any) -> None:
    """The hooks; and settings with their types alone, for ranges would be printed as the code that makes them."""
    groups = [field.default_factory for field in fields(Config)]
    for one in (Config, *filter(is_dataclass, groups)):
        one.__annotations__ = get_type_hints(one)
    app.connect("autodoc-process-docstring", prose)
    app.connect("autodoc-process-signature", short)
