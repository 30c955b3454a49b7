"""What tells runs apart that are compared: the data, and the settings on which results depend. No torch here."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trajmatch.run.compare.entries import Entry
from trajmatch.settings.flat import EVALUATE_FIELDS, INCIDENTAL, flags
from trajmatch.settings.kinds import flag
from trajmatch.settings.methods import METHODS

# These settings say from what a set was made and how it was scored. Where any two runs differ in one of them, every
# row shows it. The other settings belong to the method: a row shows one of them where two runs of its method, data set
# and size differ in it.
PROTOCOL = ("images", "network", "expert", "experts", "evaluation", "factor")
# These settings are told of every row, also where all rows have the same, unless all have these values: a set of tiles
# has as many bytes as one without and more images, and scores of another recipe are no less likely to be confused.
ORDINARY: dict[str, Any] = {"factor": 1, "evaluation.recipe": "mtt"}
SEEDS = ("seed", "outer.seed")
# These settings have a column of their own.
COLUMNS = ("method", "ipc")
RATES = "evaluation.rates"
# These settings add scores that no column shows.
BESIDE = {"evaluation.foreign"}
# The settings of experts that the network of --evaluation.whole-epochs is trained with.
WHOLE = ("expert.lr", "expert.batch", "expert.augment")
# The settings of images that leave the hash of all of them as it is.
DRAWN = {f"images.{name}" for name in ("validation", "hold_out", "test_fraction", "normalise")}

# Fields of an entry that `trajmatch evaluate` adds, and what they are called in a sentence.
ADDED = {"transfer": "Accuracies on other networks", "ranking": "The scores lrs and ars"}

Parts = dict[str, str]
"""The settings that tell a run from others: by name, each as a flag with its value."""


def same_data(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, with one name and one --data for the same images, and another --data for others.

    Images are the same where their hashes are equal, wherever they were read from. Where hashes of one --data, read in
    one way, are not equal, the files were changed in between, and the hash is added to --data. Records of older
    versions have no hash: theirs are the images of their name and --data.
    """
    first: dict[Hashable, Entry] = {}
    hashes: dict[Hashable, set[str]] = defaultdict(set)
    for entry in entries:
        first.setdefault(_images(entry), entry)
        if (images := entry.record.get("images")) is not None:
            hashes[_read_as(first[images])].add(images)
    found = []
    for entry in entries:
        one = first[_images(entry)]
        data = one.settings["data"]
        if len(hashes[_read_as(one)]) > 1:
            data = f"{data} (images {entry.record.get('images', 'unknown')[:8]})"
        settings, given = ({**of, "data": data} for of in (entry.settings, entry.given))
        found.append(replace(entry, dataset=one.dataset, settings=settings, given=given))
    return found


def _images(entry: Entry) -> Hashable:
    """What stands for the images of an entry: their hash, or their name and --data where there is none."""
    return entry.record.get("images", (entry.dataset, entry.settings["data"]))


def _read_as(entry: Entry) -> Hashable:
    """The data set of an entry, and the settings by which its images were read."""
    keys = [key for key in entry.settings if key.startswith("images.") and key not in DRAWN]
    return entry.dataset, entry.settings["data"], repr([(key, _canonical(entry.settings[key])) for key in keys])


def parts(entries: Sequence[Entry], seeds: bool = False) -> list[Parts]:
    """For each of some runs or streams, the settings that tell it from others.

    seeds: whether seeds tell runs apart too. They do where nothing is averaged over them.
    """
    keys = [key for key in dict.fromkeys(key for entry in entries for key in entry.settings) if _counts(key, seeds)]
    protocol = [key for key in keys if key.split(".")[0] in PROTOCOL or key == "seed"]
    common = {key for key in protocol if _differ(e.settings.get(key) for e in entries if _heeds(e, key))}
    common |= {k for k, plain in ORDINARY.items() if any(entry.settings.get(k, plain) != plain for entry in entries)}
    # Names tell data sets apart: --data is shown only where one name has several.
    named: dict[str, list[Any]] = defaultdict(list)
    alike: dict[tuple[str, str, int], list[Entry]] = defaultdict(list)
    for entry in entries:
        named[entry.dataset].append(entry.settings["data"])
        alike[entry.dataset, entry.method, entry.ipc].append(entry)
    own: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (dataset, method, _), runs in alike.items():
        # `given` leaves out what a method fills in, which follows from settings that are shown.
        own[dataset, method] |= {k for k in keys if k not in protocol and _differ(run.given.get(k) for run in runs)}
    found = []
    for entry in entries:
        told = common | own[entry.dataset, entry.method] | ({"data"} if _differ(named[entry.dataset]) else set())
        mine = [key for key in ("data", *keys) if key in told and _heeds(entry, key)]
        found.append({key: words(key, entry.settings.get(key)) for key in mine})
    return found


def _counts(key: str, seeds: bool) -> bool:
    """Whether results depend on a setting, as far as they are not averaged over it."""
    if key in INCIDENTAL or key in BESIDE or key in COLUMNS or (key in SEEDS and not seeds):
        return False
    return key.split(".")[0] in (*EVALUATE_FIELDS, "experts")


def _heeds(entry: Entry, key: str) -> bool:
    """Whether a setting means anything to a run: those of experts do not where its method has none."""
    if key.split(".")[0] not in ("expert", "experts") or METHODS[entry.method].experts:
        return True
    return key in WHOLE and entry.settings["evaluation.whole_epochs"] is not None


def _differ(values: Iterable[Any]) -> bool:
    return len({repr(_canonical(value)) for value in values}) > 1


def _canonical(value: Any) -> Any:
    """A value that is the same for 1 and 1.0, and for a tuple and a list."""
    if isinstance(value, list | tuple):
        return [_canonical(one) for one in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def words(key: str, value: Any) -> str:
    """A setting as on the command line."""
    return f"{flag(key)} (none)" if value == [] else " ".join(flags({key: value}))


def measured_alike(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries, less the scores of `trajmatch evaluate` that were measured otherwise than most; and notes on them.

    Scores of one column must have been measured in one way: the most common, and of equally common ways the first.
    """
    found, notes = list(entries), []
    for key, what in ADDED.items():
        ways = _ways(found, [getattr(entry, key) for entry in found])
        kept = max(ways.values(), key=list(ways.values()).count, default="")
        others = {way: [found[k].name for k in ways if ways[k] == way] for way in ways.values() if way != kept}
        notes += [
            f"{what} were measured with {kept}; those of {', '.join(names)}, measured with {way}, are not shown"
            for way, names in others.items()
        ]
        # A dict[str, Any], for the name of the field is a variable.
        nothing: dict[str, Any] = {key: {}}
        found = [replace(e, **nothing) if ways.get(k, kept) != kept else e for k, e in enumerate(found)]
    return found, notes


def _ways(entries: Sequence[Entry], records: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """By the number of its entry, the way in which each record that is not empty was measured: settings that differ."""
    pairs = enumerate(zip(entries, records, strict=True))
    known = {k: _measurement(entry, record) for k, (entry, record) in pairs if record}
    keys = dict.fromkeys(key for settings in known.values() for key in settings)
    told = [key for key in keys if _differ(settings.get(key, _unknown(key)) for settings in known.values())]
    return {
        k: " ".join(words(key, of[key]) if key in of else f"{flag(key)} {_unknown(key)}" for key in told)
        for k, of in known.items()
    }


def _measurement(entry: Entry, record: Mapping[str, Any]) -> dict[str, Any]:
    """How the scores of a record were measured, as far as it says so."""
    settings = {k: v for k, v in record.get("settings", {}).items() if k not in INCIDENTAL}
    settings.setdefault("evaluation.recipe", ORDINARY["evaluation.recipe"])  # which is not recorded
    if "rates" in record:
        settings[RATES] = record["rates"]
    content = record.get("content")
    real = content[-1] if isinstance(content, list) and content else None
    if None not in (real, entry.content) and real != entry.content:
        settings["data"] = f"of other images ({str(real)[:8]})"
    return settings


def _unknown(key: str) -> str:
    return "of the run" if key == "data" else "not recorded"


def labels(of: Sequence[tuple[str, str, Parts]]) -> list[str]:
    """Names for data sets, methods and settings, with no more words than it takes to tell them apart."""
    several = len({dataset for dataset, _, _ in of}) > 1
    found = []
    for dataset, method, mine in of:
        others = [theirs for *names, theirs in of if names == [dataset, method]]
        shown = " ".join(text for key, text in mine.items() if any(other.get(key) != text for other in others))
        found.append(", ".join(filter(None, (method, dataset if several else "", shown))))
    return found
