"""`trajmatch compare`: one table and plots from run folders, with every difference of protocol shown. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from trajmatch.data.file_names import STREAM
from trajmatch.data.files import write_text
from trajmatch.machine.litter import remove_litter
from trajmatch.pages.html import filled
from trajmatch.pages.tables import as_csv, as_html, as_markdown
from trajmatch.run.compare.entries import read, read_stream
from trajmatch.run.compare.plots import curves, pictures
from trajmatch.run.compare.protocol import measured_alike, parts, same_data
from trajmatch.run.compare.rows import stream_rows, table
from trajmatch.settings.options import Compare


def compare(folders: Sequence[Path], options: Compare) -> Path:
    """Write the pages, print the tables, return the HTML's path. Raises ValueError for what is no run or stream."""
    if not folders:
        raise ValueError("name the run folders that are to be compared: trajmatch compare runs/a runs/b")
    folders = _once(folders)
    streams = same_data([read_stream(folder) for folder in folders if (folder / STREAM).is_file()])
    runs = same_data([read(folder) for folder in folders if not (folder / STREAM).is_file()])
    runs, notes = measured_alike(runs)
    rows, told = table(runs), parts(streams, seeds=True)
    cells, streamed = [row.cells for row in rows], stream_rows(streams, told)
    tables = [one for one in (cells, streamed) if one]
    page = filled(
        "comparison.html.j2",
        tables=[as_html(one, {"protocol": ""}) for one in tables],
        notes=notes,
        pictures=(pictures(rows) if rows else []) + ([curves(streams, told)] if streams else []),
        runs=[f"{entry.name}: {entry.dataset} {entry.method} {entry.ipc}" for entry in (*runs, *streams)],
    )
    markdown = "\n".join([*map(as_markdown, tables), *(f"{note}\n" for note in notes)])
    options.out.mkdir(parents=True, exist_ok=True)
    remove_litter(options.out)
    for name, one in (("compare.csv", cells), ("streams.csv", streamed)):
        if one:
            write_text(options.out / name, as_csv(one))
        else:  # a table of an earlier comparison does not belong to these pages
            (options.out / name).unlink(missing_ok=True)
    write_text(options.out / "compare.md", markdown)
    path = options.out / "compare.html"
    write_text(path, page)
    print(markdown, end="")
    return path


def _once(folders: Sequence[Path]) -> list[Path]:
    """Every folder once, however often and in whatever spelling it was named."""
    found: dict[Path, Path] = {}
    for folder in folders:
        first = found.setdefault(folder.resolve(), folder)
        if first is not folder:
            print(f"{folder} is the same folder as {first}, and counts once")
    return list(found.values())
