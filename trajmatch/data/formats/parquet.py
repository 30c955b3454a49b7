"""`parquet`: a set as a data set of the Hugging Face Hub, with its classes by name."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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
    pictures = [
        {"bytes": _png(image), "path": f"{i:05d}.png"} for i, image in enumerate(eight_bits(synthetic.pixels).numpy())
    ]
    return pa.table(
        {
            "image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array(synthetic.labels.tolist(), pa.int64()),
            "soft_label": pa.array(list(probabilities.numpy()), pa.list_(pa.float32())),
            "input": pa.array(list(images.flatten(1).numpy()), pa.list_(pa.float32())),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features(synthetic.classes)}})})


def features(classes: tuple[str, ...]) -> dict[str, Any]:
    """The columns as the library `datasets` describes them."""
    numbers = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    return {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
        "soft_label": numbers,
        "input": numbers,
    }


def _png(pixels: np.ndarray) -> bytes:
    """uint8 (c, h, w) as the bytes of a PNG file."""
    stream = BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(
        stream, format="PNG"
    )
    return stream.getvalue()
