"""Rows of named values as text, Markdown, CSV and HTML.

Without titles, a table has the columns that any row has a value in, in the order in which they appear.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

from trajmatch.pages.html import filled

Row = Mapping[str, Any]
SETS = {
    "distilled": "distilled, last iterate",
    "chosen": "distilled, chosen on validation",
    "random": "random real, the set's rate",
    "random tuned": "random real, their best rate",
    "whole": "whole dataset",
    "foreign": "distilled",
    "foreign random": "random real images",
}
"""What the scores of `trajmatch evaluate` are of, by their names in the records; a score may name its network."""


def set_title(key: str, score: Row) -> str:
    """What a score is of, in words, with its network where that is another one than the set's, and its epochs.

    A choice among snapshots says so where validation images were trained on too.

    >>> set_title("whole", {"epochs": 6}), set_title("foreign", {"network": "lenet"})
    ('whole dataset, 6 epochs', 'distilled, on lenet')
    """
    more = f", on {score['network']}" if "network" in score else ""
    if key == "whole" and "epochs" in score:  # after a few of them it is no ceiling
        more += f", {score['epochs']} epoch{'s' * (score['epochs'] != 1)}"
    return SETS.get(key, key) + more + (" (among training images)" if score.get("held_out") is False else "")


def columns(rows: Sequence[Row]) -> list[str]:
    """The columns that any row has a value in."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def two_decimals(value: Any) -> str:
    """A cell of a table of accuracies in per cent; a missing value is a dash."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def three_digits(value: Any) -> str:
    """A cell of a table of quantities of any size; a missing value is a dash."""
    if not isinstance(value, float) or value == 0 or abs(value) >= 100:
        return f"{value:.0f}" if isinstance(value, float) else two_decimals(value)
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.0e}"


def mean_and_std(score: Row) -> str:
    """A score's mean and standard deviation in per cent."""
    return f"{score['mean']:.2%} +- {score['std']:.2%}"


def as_text(rows: Sequence[Row], head: bool = True, indent: str = "  ") -> list[str]:
    """Lines for a terminal: the first column is flush left, the others are flush right."""
    names = columns(rows)
    lines = [[two_decimals(row.get(name)) for name in names] for row in rows]
    if head and rows:
        lines.insert(0, names)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        indent + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
    ]


def score_lines(scores: Mapping[str, Row], titles: Mapping[str, str] | None = None) -> list[str]:
    """A line for each score: its title, the mean, the standard deviation and the number of networks.

    Random images have the standard error of their mean besides: there is a new draw for each network.

    A score has the same line whatever stands beside it, so that lines of two evaluations can be compared. titles: of
    other scores than those of `SETS`.
    """
    width = max(map(len, (titles or SETS).values()))
    named = {key: titles[key] if titles else set_title(key, of) for key, of in scores.items()}
    return [
        f"  {named[key]:<{width}}  {of['mean']:6.2%} +- {of['std']:.2%}  (n = {of['n']}{_error(of)})"
        for key, of in scores.items()
    ]


def _error(score: Row) -> str:
    return f", standard error {score['error']:.2%}" if "error" in score else ""


def as_markdown(
    rows: Sequence[Row],
    titles: Mapping[str, str] | None = None,
    cell: Callable[[Any], str] = two_decimals,
    aligned: bool = False,
) -> str:
    """The table for a README. titles: names of columns by their keys; aligned: all cells of a column as wide."""
    titles = {name: name for name in columns(rows)} if titles is None else titles
    lines = [[*titles.values()], *([cell(row.get(key)).replace("|", "\\|") for key in titles] for row in rows)]
    widths = [max(map(len, column)) if aligned else 0 for column in zip(*lines, strict=True)]
    written = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2 if aligned else 3) for width in widths) + "|"
    return "\n".join([written[0], rule, *written[1:]]) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table with all digits."""
    written = StringIO()
    writer = csv.DictWriter(written, columns(rows), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def as_html(rows: Sequence[Row], kinds: Mapping[str, str], head: bool = True) -> str:
    """The table for a page. kinds: classes of columns in style.css, for those that are not of numbers."""
    names = columns(rows)
    body = [[(kinds.get(name, "number"), two_decimals(row.get(name))) for name in names] for row in rows]
    return filled("table.html.j2", names=names if head else [], rows=body)
