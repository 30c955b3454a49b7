"""Distilled sets on the Hugging Face Hub: one that is fetched from there, and a table that the Hub's viewer shows."""

from pathlib import Path

from trajmatch.data import synthetic as sets
from trajmatch.data.file_names import SET
from trajmatch.data.files import replacing
from trajmatch.data.formats.form import eight_bits
from trajmatch.data.formats.parquet import table
from trajmatch.data.grid import displayable
from trajmatch.data.reading import hub, parquet
from trajmatch.data.set_header import APART, set_header
from trajmatch.data.synthetic import SyntheticSet


def load(path: str | Path) -> SyntheticSet:
    """Read a set: its file, the run folder that holds it, or "hf:NAME[@REVISION]" for one that `trajmatch push` wrote.

    Raises ValueError naming the file where it is missing, damaged, something else, or a set that cannot be used; and at
    once where the Hub is not there.
    """
    return sets.load(fetched(path) if isinstance(path, str) and path.startswith(hub.PREFIX) else path)


def fetched(text: str) -> Path:
    """The file of a set on the Hub, in the Hub's cache on this machine. Raises ValueError."""
    name, config, revision = hub.parsed(text)
    if config is not None:
        raise ValueError(f"{text!r} names the configuration {config!r}, and a distilled set has none: leave it out.")
    parquet.require("huggingface_hub", f"{text!r} is a name on the Hugging Face Hub")
    hub.check_reachable(f"{text!r} cannot be loaded: ", f"give a run folder or a file instead ({hub.CACHED})")
    file = _downloaded(text, name, SET, revision)
    # A large whitening lies apart, and beside the set in the Hub's cache too.
    if (apart := set_header(file)["space"].get(APART)) is not None:
        _downloaded(text, name, apart["file"], revision)
    return file


def _downloaded(text: str, name: str, file: str, revision: str | None) -> Path:
    """One file of a repository. Raises ValueError."""
    import huggingface_hub
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        kind, where = "dataset", hub.endpoint()
        return Path(huggingface_hub.hf_hub_download(name, file, repo_type=kind, revision=revision, endpoint=where))
    except RemoteEntryNotFoundError as error:
        raise ValueError(f"{text!r} has no {file}: it is not a set that trajmatch push wrote.") from error
    except Exception as error:  # its own, and httpx's
        raise ValueError(f"{text!r} cannot be loaded from the Hugging Face Hub ({hub.reason(error)}).") from error


def write_viewed(synthetic: SyntheticSet, path: Path) -> None:
    """Write the stored images as PNG, brought into what a screen shows, and their likeliest classes as Parquet.

    The columns and their description are those of the Hub's image data sets. Raises ValueError without pyarrow.
    """
    parquet.require("pyarrow", f"{path.name} is Parquet")
    from pyarrow.parquet import write_table

    pixels = eight_bits(displayable(synthetic.stored_pixels))
    made = table(pixels, synthetic.Y.argmax(1).tolist(), synthetic.classes, {})
    with replacing(path) as temporary:
        write_table(made, temporary)
