"""Tables by hand: the same rows as text, Markdown, CSV and HTML."""

import csv
from html.parser import HTMLParser
from io import StringIO
from typing import Any

from trajmatch.pages.tables import as_csv, as_html, as_markdown, as_text, columns, score_lines, three_digits

ROWS: list[dict[str, Any]] = [
    {"name": "a|b", "accuracy": 12.3456, "seconds": 1234.5, "never": None},
    {"name": "<longer>", "accuracy": None, "n": 3},
]


def test_columns_are_those_that_have_a_value() -> None:
    assert columns(ROWS) == ["name", "accuracy", "seconds", "n"]
    assert columns([]) == []


def test_text_is_aligned() -> None:
    assert as_text(ROWS) == [
        "  name      accuracy  seconds  n",
        "  a|b          12.35     1234  -",
        "  <longer>         -        -  3",
    ]
    assert as_text([{"": "in all", "time": "3 s"}], head=False, indent="") == ["in all  3 s"]
    assert as_text([{"": "in all", "time": "3 s"}], indent="") == ["        time", "in all   3 s"]
    assert as_text([]) == []


def test_scores_are_lines_of_their_names() -> None:
    scores = {"distilled": {"mean": 0.05, "std": 0.01, "n": 5}, "whole": {"mean": 0.975, "std": 0.1, "n": 10}}
    lines = [
        "  distilled, last iterate           5.00% +- 1.00%  (n = 5)",
        "  whole dataset                    97.50% +- 10.00%  (n = 10)",
    ]
    assert score_lines(scores) == lines
    assert score_lines({"whole": scores["whole"]}) == lines[1:], "whatever stands beside it"
    assert score_lines(scores, {"distilled": "a", "whole": "bc"})[0] == "  a    5.00% +- 1.00%  (n = 5)"


def test_markdown_keeps_its_columns() -> None:
    head, rule, first, last = as_markdown(ROWS).splitlines()
    assert (head, rule) == ("| name | accuracy | seconds | n |", "|---|---|---|---|")
    assert (first, last) == ("| a\\|b | 12.35 | 1234 | - |", "| <longer> | - | - | 3 |")
    table = as_markdown(ROWS, {"name": "Name", "never": "Never"}, aligned=True)
    assert table.splitlines()[:3] == ["| Name     | Never |", "|----------|-------|", "| a\\|b     | -     |"]


def test_three_digits_whatever_the_size() -> None:
    cells = [three_digits(value) for value in (None, 0.0, 1e-6, 0.12345, 12.345, 1234.5, 7, "x")]
    assert cells == ["-", "0", "1e-06", "0.123", "12.3", "1234", "7", "x"]


def test_csv_has_all_digits() -> None:
    first, last = csv.DictReader(StringIO(as_csv(ROWS)))
    assert first == {"name": "a|b", "accuracy": "12.3456", "seconds": "1234.5", "n": ""}
    assert last["n"] == "3"


class Cells(HTMLParser):
    """The texts of a table by tag, and the classes of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str | None, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("th", "td"):
            self.found.append((tag, dict(attrs).get("class"), ""))

    def handle_data(self, data: str) -> None:
        if data.strip():
            tag, kind, text = self.found.pop()
            self.found.append((tag, kind, text + data))


def test_html_is_escaped() -> None:
    page = as_html(ROWS, {"name": ""})
    assert "<longer>" not in page
    cells = Cells(page).found
    assert [text for tag, _, text in cells if tag == "th"] == ["name", "accuracy", "seconds", "n"]
    assert cells[4:8] == [
        ("td", None, "a|b"),
        ("td", "number", "12.35"),
        ("td", "number", "1234"),
        ("td", "number", "-"),
    ]
    assert cells[8] == ("td", None, "<longer>")
    assert "<th" not in as_html(ROWS, {}, head=False)
