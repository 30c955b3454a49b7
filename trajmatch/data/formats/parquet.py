"""`parquet`: a set as a data set of the Hugging Face Hub, with its classes by name."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from trajmatch.data.formats import arrays
from trajmatch.data.formats.form import Form, check_png, eight_bits, lost, normalising
from trajmatch.data.reading.parquet import require
from trajmatch.data.synthetic import SyntheticSet

NAME = "data/train-00000-of-00001.parquet"
READ = """\
import numpy as np, torch
from pyarrow import parquet

table = parquet.read_table("{name}")
images = torch.tensor(np.stack(table["input"].to_numpy())).reshape(-1, {shape})
labels = torch.tensor(np.stack(table["soft_label"].to_numpy()))
step_size = {eta!r}
"""


def write(synthetic: SyntheticSet, place: Path, whitening: bool) -> Form:
    """Write the set into a folder. Raises ValueError for images that PNG can't hold, or without pyarrow."""
    check_png(synthetic, "parquet")
    require("pyarrow", "--format parquet writes Parquet")
    from pyarrow import parquet

    (place / NAME).parent.mkdir()
    parquet.write_table(_table(synthetic), place / NAME)
    about = (
        "the columns `image` (PNG), `label` (its class, by name), `soft_label` (C probabilities) and `input` (c h w "
        "numbers, row by row: the image as a network must see it, lossless)"
    )
    files = {NAME: about, **arrays.write_whitening(synthetic, place, whitening)}
    shape = ", ".join(map(str, synthetic.X.shape[1:]))
    code = READ.format(name=NAME, shape=shape, eta=synthetic.eta) + normalising(synthetic.space, arrays.LOAD)
    what = lost(synthetic.pixels)
    notes = () if what is None else (f"{what}. So the column `input` has the images lossless: train on it.",)
    return Form(files, code, notes)


def _table(synthetic: SyntheticSet) -> Any:
    import pyarrow as pa

    images, probabilities = synthetic.seen
    numbers = {
        "soft_label": pa.array(list(probabilities.numpy()), pa.list_(pa.float32())),
        "input": pa.array(list(images.flatten(1).numpy()), pa.list_(pa.float32())),
    }
    return table(eight_bits(synthetic.pixels), synthetic.labels.tolist(), synthetic.classes, numbers)


def table(pixels: Tensor, labels: list[int], classes: tuple[str, ...], numbers: Mapping[str, Any]) -> Any:
    """A pyarrow table with the columns of the Hub's image data sets, described as the library `datasets` does.

    pixels: uint8 (n, c, h, w), of 1 or 3 channels. numbers: more columns, by name, each of lists of float32.
    """
    import pyarrow as pa

    pictures = [{"bytes": _png(image), "path": f"{i:05d}.png"} for i, image in enumerate(pixels.numpy())]
    columns = {
        "image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": pa.array(labels, pa.int64()),
    }
    of_numbers = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    features |= dict.fromkeys(numbers, of_numbers)
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns | dict(numbers)).replace_schema_metadata(about)


def _png(pixels: np.ndarray) -> bytes:
    """uint8 (c, h, w) as the bytes of a PNG file."""
    stream = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        stream, format="PNG"
    )
    return stream.getvalue()
