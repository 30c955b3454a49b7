"""`trajmatch export`: a distilled set as the files of another program, with a README that says how to train on it."""

from pathlib import Path
from typing import Any

from trajmatch.data import synthetic as sets
from trajmatch.data.checksums import identity
from trajmatch.data.file_names import EVALUATION, SET
from trajmatch.data.files import write_text
from trajmatch.data.formats import arrays, folder, parquet, torch_files
from trajmatch.data.kept import other
from trajmatch.data.synthetic import SyntheticSet
from trajmatch.machine.messages import LOGGER
from trajmatch.pages import records as shapes
from trajmatch.run.assembly.set_file import set_file
from trajmatch.run.exchange.guide import Facts, guide
from trajmatch.run.exchange.target import check_free, new_folder
from trajmatch.settings.checks import resolve
from trajmatch.settings.command_line import quoted
from trajmatch.settings.flat import parsed
from trajmatch.settings.kinds import checked
from trajmatch.settings.options import Export

FORMATS = {
    "folder": folder.write,
    "parquet": parquet.write,
    "npz": arrays.write,
    "mtt": torch_files.write_mtt,
    "ddranking": torch_files.write_dd_ranking,
}
README = "README.md"


def export(path: Path, options: Export) -> list[str]:
    """Write the set of a run folder, or of a file, in a format; what was written, as lines of text.

    Raises ValueError where the format can't hold the set, or the target is there already; nothing is written then.
    """
    checked(options)
    if options.format is None:
        raise ValueError(f"--format is missing and must be one of {', '.join(FORMATS)}")
    file = set_file(path)
    target = options.out or file.parent / f"export-{options.format}"
    check_free(target)
    synthetic = sets.load(file)
    with new_folder(target) as place:
        form = FORMATS[options.format](synthetic, place, options.whitening)
        text = guide(_facts(synthetic, file), form.files, form.code, form.notes, options.whitening)
        write_text(place / README, text)
        sizes = [f"  {one.relative_to(place)}: {one.stat().st_size / 1e3:,.1f} kB" for one in _top(place)]
    for note in form.notes:
        LOGGER.info(note.replace("`", ""))
    n, *shape = synthetic.images.shape
    told = f"{n} images of {' x '.join(map(str, shape))}, how to train on them in {target / README}"
    return [f"{target}: {told}", *sizes]


def _top(place: Path) -> list[Path]:
    return sorted(one for one in place.rglob("*") if one.is_file() and one.suffix != ".png")


def _facts(synthetic: SyntheticSet, file: Path) -> Facts:
    info = synthetic.info
    config = info.get("config")
    said = [f"from {info['dataset']}"] if "dataset" in info else []
    said += [f"by the method {info['method']}"] if "method" in info else []
    said += [f"in {info['steps']} outer steps"] if "steps" in info else []
    foreign = f" ({info['foreign']})" if "foreign" in info else ""
    return Facts(
        " ".join(["Distilled", *said, "with trajmatch"]) + f"{foreign}; the learned step size is {synthetic.eta:.6g}",
        tuple(synthetic.images.shape),
        synthetic.classes,
        len(synthetic.X),
        synthetic.factor,
        synthetic.space.kind,
        _scores(file),
        quoted(["evaluate", str(file.parent if file.name == SET else file)]),
        resolve(parsed(config, str(file))) if isinstance(config, dict) else None,
    )


def _scores(file: Path) -> dict[str, Any]:
    """The scores of a run's set by name; none where there are none, or they are of another set, which a line says."""
    path = file.parent / EVALUATION
    if file.name != SET or not path.is_file():
        return {}
    found = shapes.record(path, shapes.EVALUATION)
    if other(found, {"set": identity(file)}) is not None:
        LOGGER.warning(f"{path} belongs to another set than the one here, and no accuracy is told")
        return {}
    return dict(found["accuracy"])
