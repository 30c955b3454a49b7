"""What plots share, and the templates of the pages."""

import pytest
from jinja2 import UndefinedError

from trajmatch.pages.html import filled
from trajmatch.pages.plots import banded, legend, panels, png, streams

LONG = "satm, --outer.lr-images 1000 --matching.inner-steps 30"
EMPTY: dict[str, object] = {"tables": [], "notes": [], "pictures": [], "runs": []}


def test_values_of_a_page_are_escaped_and_pictures_are_inside() -> None:
    page = filled("comparison.html.j2", **{**EMPTY, "notes": ["<b>&"], "pictures": [('"title"', b"PNG")]})
    assert '<p class="note">&lt;b&gt;&amp;</p>' in page
    assert 'alt="&#34;title&#34;" src="data:image/png;base64,UE5H"' in page
    assert "--accent: #0072b2" in page, "the style is in the page"
    assert page.startswith("<!doctype html>")


def test_a_value_that_a_page_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="runs"):
        filled("comparison.html.j2", **{key: value for key, value in EMPTY.items() if key != "runs"})


def test_long_names_stand_under_a_plot_and_short_ones_in_it() -> None:
    for names, inside in ((["a", "b"], True), (["a", LONG], False)):
        figure, (axes,) = panels(1)
        for name in names:
            axes.plot([0, 1], [0, 1], label=name)
        before = figure.get_size_inches()[1]
        legend(figure, axes, names)
        assert (axes.get_legend() is not None, bool(figure.legends)) == (inside, not inside)
        assert (figure.get_size_inches()[1] > before) is not inside


def test_bands_reach_as_far_as_the_errors() -> None:
    _, (axes,) = panels(1)
    banded(axes, [1, 2], [0.5, 0.7], [0.1, None], "a", "C0")
    (band,) = axes.collections
    heights = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert heights == {(1, 0.4), (1, 0.6), (2, 0.7)}


def test_streams_are_curves_over_the_classes_seen() -> None:
    records = [{"classes_seen": [2, 4], "mean": [0.9, 0.8], "std": [0.1, 0.1]}, {"classes_seen": [4], "mean": [0.7], "std": [0.0]}]  # noqa: E501  # fmt: skip
    figure = streams(records, ["dm", "mtt"])
    axes = figure.axes[0]
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[90, 80], [70]]
    assert list(axes.get_xticks()) == [2, 4]
    assert [text.get_text() for text in axes.get_legend().texts] == ["dm", "mtt"]
    records[0]["random"] = {"mean": [0.5, 0.4], "std": [0.1, 0.1]}
    axes = streams(records, ["dm", "mtt"]).axes[0]
    assert list(axes.get_lines()[-1].get_ydata()) == [50, 40]
    assert [text.get_text() for text in axes.get_legend().texts] == ["dm", "mtt", "random images"]
    assert png(figure).startswith(b"\x89PNG")
