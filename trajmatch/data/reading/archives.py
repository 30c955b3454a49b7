"""CIFAR-10 and CIFAR-100 in the Python archives their authors publish, read without trusting their pickles."""

import pickle
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from trajmatch.data.reading.source import Source, Split, integer_labels, labelled, row_namer

# Per variant: training batches, test batch, file of names, key of labels, key of names.
_CIFAR10 = ([f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "labels", "label_names")
_CIFAR100 = (["train"], "test", "meta", "fine_labels", "fine_label_names")


class _Inert:
    """Stands in for a numpy global while unpickling. Only what a subclass writes down can happen to it."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("unexpected state")


class _Dtype(_Inert):
    """numpy.dtype, of which the archives need one value."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of type {code!r} instead of 'u1', bytes")

    def __setstate__(self, state: object) -> None:
        pass  # byte order and fields: nothing to set on bytes


class _Ndarray(_Inert):
    """numpy.ndarray: only ever the first argument of _Array."""


class _Array(_Inert):
    """numpy's _reconstruct: an empty array whose state then brings shape and bytes."""

    def __init__(self, *_: object) -> None:
        self.array = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _Dtype) or is_fortran or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not plain bytes in C order")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _Latin1(_Inert):
    """_codecs.encode, with which Python 3 writes bytes under protocol 2."""

    def __new__(cls, text: str, codec: str) -> bytes:  # type: ignore[misc]
        if codec != "latin1":
            raise pickle.UnpicklingError(f"codec {codec!r}")
        return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], type[_Inert]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Latin1,
}


class _Unpickler(pickle.Unpickler):
    """Builds lists, dicts, texts, numbers and byte arrays. Every other global is refused, and no numpy code runs."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR archive needs") from None


def unpickle(data: bytes, where: str) -> dict[str, Any]:
    """The dict in a CIFAR batch, arrays included. Raises ValueError for anything else, and runs none of it."""
    try:
        # Python 2 wrote them: "bytes" keeps its strings as they are.
        value = _Unpickler(BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{where} is refused as a CIFAR archive: {str(error).rstrip('.')}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} is refused as a CIFAR archive: it holds a {type(value).__name__}, not a dict.")
    return {_text(key): item.array if isinstance(item, _Array) else item for key, item in value.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def is_cifar_folder(path: Path) -> bool:
    """Whether a folder holds the files of either archive."""
    return (path / "batches.meta").is_file() or ((path / "meta").is_file() and (path / "train").is_file())


def read_cifar_folder(path: Path) -> Source:
    """`cifar-10-batches-py` or `cifar-100-python`, unpacked. CIFAR-100 has its 100 fine labels."""
    files = {child.name: child.read_bytes() for child in path.iterdir() if child.name in _known_files()}
    return _read_cifar(files, path)


def read_cifar_tar(path: Path) -> Source:
    """`cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, read in memory: nothing is unpacked to disk."""
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in _known_files() and member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None  # a regular file has one
                    files[name] = stream.read()
    except Exception as error:  # a damaged archive can raise a dozen types, some of them over several lines
        why = str(error).rstrip(".") if isinstance(error, OSError) else "it is damaged, or no tar archive"
        raise ValueError(f"{path} cannot be read as a tar archive: {why}.") from error
    return _read_cifar(files, path)


def _known_files() -> frozenset[str]:
    return frozenset([*_CIFAR10[0], *_CIFAR10[1:3], *_CIFAR100[0], *_CIFAR100[1:3]])


def _read_cifar(files: dict[str, bytes], path: Path) -> Source:
    train, test, meta, label_key, name_key = _CIFAR10 if "batches.meta" in files else _CIFAR100
    missing = [name for name in (*train, test, meta) if name not in files]
    if missing:
        raise ValueError(f"{path} is not a CIFAR-10 or CIFAR-100 Python archive: it has no file '{missing[0]}'.")
    names = unpickle(files[meta], f"{path}/{meta}").get(name_key)
    if not isinstance(names, list):
        raise ValueError(f"{path}/{meta} has no list '{name_key}'.")
    batches = [_batch(files[name], f"{path}/{name}", label_key) for name in train]
    x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    test_x, test_y = _batch(files[test], f"{path}/{test}", label_key)
    name = "cifar10" if meta == "batches.meta" else "cifar100"
    return labelled(
        name,
        Split(x, y, row_namer(f"the training batches of {path}")),
        Split(test_x, test_y, row_namer(f"{path}/{test}")),
        [_text(item) for item in names],
    )


def _batch(data: bytes, where: str, label_key: str) -> tuple[Any, Any]:
    """Images (n, 32, 32, 3) and labels (n,)."""
    content = unpickle(data, where)
    x, y = content.get("data"), content.get(label_key)
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != 3072 or not isinstance(y, list):
        raise ValueError(f"{where} must have 'data', bytes (n, 3072), and a list '{label_key}'.")
    labels = integer_labels(y, f"'{label_key}' of {where}")
    if len(labels) != len(x):
        raise ValueError(f"{where} has {len(x)} images but {len(labels)} labels.")
    return x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels
