"""The numbers and figures of the diagnoses in a folder. No torch here."""

from pathlib import Path
from typing import Any

from trajmatch.pages.records import DIAGNOSIS, record
from trajmatch.settings.diagnoses import NAMES


def read(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """The diagnoses in a folder, each with its figure, in the order in which they are listed."""
    found = []
    for name in NAMES:
        numbers, figure = folder / f"{name}.json", folder / f"{name}.png"
        if numbers.exists() and figure.exists():
            found.append((record(numbers, DIAGNOSIS, "these are not the numbers of a diagnosis"), figure))
    return found
