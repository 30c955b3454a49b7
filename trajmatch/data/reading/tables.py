"""Arrow tables in the Hugging Face image layout: their columns, class names and encoded images."""

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np

from trajmatch.data.reading.source import (
    NO_LABELS,
    REORDERED,
    Source,
    Split,
    aligned,
    integer_labels,
    is_unlabelled,
    labelled,
    row_namer,
)

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels", "fine_labels")
Tables = Sequence[tuple[Any, str]]  # of one split, each with its name for a message


class Columns(NamedTuple):
    """Names of the columns with images and with labels, where a user says them."""

    image: str | None = None
    label: str | None = None


TOLD_BY_NAME = Columns()


def features(schema: Any, where: str) -> dict[str, Any]:
    """The Hugging Face description of each column; empty where there is none. Raises ValueError where it is damaged."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:  # without it, labels would be read under other names
        raise ValueError(
            f"{where} has a damaged description of its columns (the key 'huggingface'): {error}."
        ) from error
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    return {name: about for name, about in found.items() if isinstance(about, dict)} if isinstance(found, dict) else {}


def columns(schema: Any, where: str, wanted: Columns = TOLD_BY_NAME) -> tuple[str, str]:
    """Names of the image and the label column. Raises ValueError where they cannot be told, or are not there."""
    described_as = features(schema, where)

    def described(kind: str) -> list[str]:
        return [name for name in schema.names if (described_as.get(name) or {}).get("_type") == kind]

    def choose(known: Sequence[str], others: list[str], what: Literal["image", "label"]) -> str:
        if (said := getattr(wanted, what)) is not None:
            if said not in schema.names:
                raise ValueError(
                    f"--images.{what}-column is '{said}' and {where} has the columns {', '.join(schema.names)}."
                )
            return str(said)
        found = [name for name in known if name in schema.names][:1] or others
        if len(found) != 1:
            raise ValueError(
                f"{where} has the columns {', '.join(schema.names)}: "
                f"it must have one {what} column named {' or '.join(known[:2])}, or "
                f"--images.{what}-column says which it is."
            )
        return found[0]

    image = choose(_IMAGE_COLUMNS, described("Image"), "image")
    return image, choose(_LABEL_COLUMNS, described("ClassLabel"), "label")


def source_of(
    name: str,
    read: Mapping[str, Callable[[], Tables]],
    train: str,
    tests: Sequence[str],
    notes: Sequence[str] = (),
    wanted: Columns = TOLD_BY_NAME,
) -> Source:
    """A Source from splits by name, which are read when they are needed.

    tests:  the splits that may be the test split, the best first; the first that has labels is taken.
    wanted: the columns, where a user names them.

    Raises ValueError where no test split has labels.
    """
    notes = list(notes)
    tables = read[train]()
    names = next(filter(None, (_class_names(table, wanted) for table in tables)), None)
    train_split = _split(tables, names, notes, wanted)
    schema, where = tables[0][0].schema, tables[0][1]
    image, label = columns(schema, where, wanted)
    images = [column for column, about in features(schema, where).items() if about.get("_type") == "Image"]
    notes += [f"left out: the images of the column '{column}'" for column in images if column != image]
    if label not in _LABEL_COLUMNS[:1]:
        notes.append(f"labels are those of the column '{label}'")
    test_split, test = None, None
    for test in tests:
        told: list[str] = []
        test_split = _split(read[test](), names, told, wanted)
        if not is_unlabelled(test_split.labels):
            notes += told
            break
        notes.append(f"left out: the split '{test}', which has no labels")
        test_split = None
    if tests and test_split is None:
        raise ValueError(NO_LABELS.format(f"the split '{tests[0]}' of {name}"))
    unread = [other for other in read if other not in (train, *tests)]
    unread += [other for other in tests if test_split is not None and tests.index(other) > tests.index(test or "")]
    notes += [f"left out: the split '{other}'" for other in unread]
    return labelled(name, train_split, test_split, names, f"the split '{test}'" if test_split else "", notes)


def _class_names(table: tuple[Any, str], wanted: Columns) -> list[str] | None:
    schema, where = table[0].schema, table[1]
    feature = features(schema, where).get(columns(schema, where, wanted)[1])
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return names if isinstance(names, list) else None


def _split(tables: Tables, names: Sequence[str] | None, notes: list[str], wanted: Columns) -> Split:
    """One split of several tables, labels as `names` numbers the classes."""
    items: list[bytes] = []
    labels = []
    for table, where in tables:
        image, label = columns(table.schema, where, wanted)
        found = _image_bytes(table, image, where)
        part = Split(found, _labels(table, label, where), row_namer(where))
        part, has_changed = aligned(part, _class_names((table, where), wanted), names, where)
        notes += [REORDERED.format(where)] if has_changed else []
        items += found
        labels.append(part.labels)
    ends = list(accumulate(len(part) for part in labels))

    def name_of(i: int) -> str:
        part = bisect.bisect_right(ends, i)
        return row_namer(tables[part][1])(i - (ends[part - 1] if part else 0))

    return Split(items, np.concatenate(labels), name_of)


def _labels(table: Any, column: str, where: str) -> Any:
    """Labels as integers; -1, the Hub's sign for none, where one is missing."""
    import pyarrow
    import pyarrow.compute

    values = table.column(column)
    if pyarrow.types.is_null(values.type):
        values = values.cast(pyarrow.int64())
    if pyarrow.types.is_integer(values.type) and values.null_count:
        values = pyarrow.compute.fill_null(values.cast(pyarrow.int64()), -1)
    return integer_labels(values.to_numpy(), f"column '{column}' of {where}")


def _image_bytes(table: Any, column: str, where: str) -> list[bytes]:
    """The encoded images of a column of struct{bytes, path} or of plain bytes."""
    import pyarrow
    import pyarrow.compute

    values = table.column(column)
    if pyarrow.types.is_struct(values.type) and values.type.get_field_index("bytes") >= 0:
        values = pyarrow.compute.struct_field(values, "bytes")
    if not (pyarrow.types.is_binary(values.type) or pyarrow.types.is_large_binary(values.type)):
        raise ValueError(f"column '{column}' of {where} is {values.type}: images must be encoded bytes.")
    items: list[bytes] = values.to_pylist()
    if values.null_count:
        row = items.index(None)  # type: ignore[arg-type]
        raise ValueError(
            f"{row_namer(where)(row)} has no image bytes in column '{column}' (a path alone is not enough)."
        )
    return items
