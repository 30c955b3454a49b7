"""Plots of one run: what is drawn does not cover what is written."""

import re

from trajmatch.pages.figures import Bar, accuracy_bars, class_dots


def spans(svg: str) -> tuple[list[float], list[tuple[float, float]]]:
    """Heights of the names' base lines, and from where to where the dashed marks of chance reach."""
    names = [float(y) for y in re.findall(r'<text [^>]*?y="([\d.-]+)"[^>]*>name', svg)]
    dashed = re.findall(r'<path d="M [\d.-]+ ([\d.-]+)\s+L [\d.-]+ ([\d.-]+)\s*"[^>]*stroke-dasharray', svg)
    return names, [(min(float(a), float(b)), max(float(a), float(b))) for a, b in dashed]


def test_the_mark_of_chance_crosses_no_name_and_no_number() -> None:
    svg = accuracy_bars([Bar(f"name {k}", 0.05 + k / 10, 0.01, k == 0) for k in range(4)], 0.1)
    names, marks = spans(svg)
    assert len(names) == len(marks) == 4
    for place in names:
        assert not any(low - 1 < place < high + 1 for low, high in marks)
        assert not any(low < place - 6 < high for low, high in marks)  # the middle of its letters
    at = {
        float(x) for x in re.findall(r'<path d="M ([\d.-]+) [\d.-]+\s+L [\d.-]+ [\d.-]+\s*"[^>]*stroke-dasharray', svg)
    }
    numbers = [float(x) for x in re.findall(r'<text [^>]*?x="([\d.-]+)"[^>]*>5\.0 %', svg)]
    assert len(at) == len(numbers) == 1
    assert numbers[0] > at.pop()  # 5 % is written behind the mark at 10 %


def test_series_of_classes_have_marks_of_their_own() -> None:
    svg = class_dots(["ant", "x" * 50], {"distilled": [0.5, 0.6], "random real images": [0.2, 0.3]}, 0.5)
    assert "x" * 19 + "…" in svg
    assert "x" * 20 not in svg
    shapes = re.findall(r"<defs>\s*<path[^>]* d=\"([^\"]+)\"", svg)
    assert len({shape for shape in shapes if "C" in shape}) == 1  # circles
    assert any("C" not in shape for shape in shapes)  # and diamonds
    for words in ("distilled", "random real images", "chance"):
        assert f">{words}<" in svg
