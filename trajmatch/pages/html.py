"""Pages filled from the templates beside this file. Every value is escaped, unless it is marked as HTML."""

from base64 import b64encode
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("trajmatch.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["base64"] = lambda data: b64encode(data).decode()
    return found


def filled(template: str, **values: object) -> str:
    """The template of this name with its values."""
    return _environment().get_template(template).render(values)
