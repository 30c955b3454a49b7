"""The card of a distilled set on the Hugging Face Hub: what it is, is worth, and was made by. No torch here."""

from collections.abc import Mapping
from typing import Any

import yaml

ROWS = {"distilled": "the set", "chosen": "the set as validation chose it", "random": "as many random real images",
        "whole": "the whole data set"}  # fmt: skip
SIZES = (1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")


def card(name: str, info: Mapping[str, Any], images: int, step_size: float, scores: Mapping[str, Any]) -> str:
    """README.md of a repository on the Hub.

    name: of the repository. info: how the set was made. images: how many it stores. scores: by name; empty without any.
    """
    told = {key: info[key] for key in ("dataset", "method", "ipc", "steps") if key in info}
    head = _head(info, images)
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# {head["pretty_name"]}

{images} synthetic images, distilled by trajmatch from the data set {info.get("dataset", "of real images")}. A network
is trained on them in its place. The terms of the data set that they were made from hold for them.

![The synthetic images by class](images.png)

```python
import trajmatch

synthetic = trajmatch.load("hf:{name}")  # a torch Dataset of (image, label probabilities)
synthetic.step_size  # {step_size:.4g}, the learned learning rate to train with
synthetic.normalise(real_uint8_images)  # real images as a network trained on the set must see them
```

The set is `distilled.safetensors`, with its labels, its step size and the whitening of its images. The table of images
is for looking at: its pixels are cut to what a screen shows.

## Scores

{_table(scores)}
## Recipe

{", ".join(f"{key} {value}" for key, value in told.items())}; all settings are in `config.yaml`:

```sh
trajmatch run --config config.yaml --data YOUR_COPY
```
"""


def _head(info: Mapping[str, Any], images: int) -> dict[str, Any]:
    """What the Hub reads of a card."""
    return {
        "pretty_name": f"{info.get('dataset', 'images')}, distilled to {images} images",
        "task_categories": ["image-classification"],
        "size_categories": [next((words for limit, words in SIZES if images < limit), "n>1M")],
        "tags": ["dataset-distillation", "dataset-condensation", "trajmatch"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    }


def _table(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "The set has not been scored.\n"
    lines = ["| networks trained on | test accuracy | networks |", "|---|---|---|"]
    how = [f"- {ROWS[key]}: {scores[key]['how']}" for key in ROWS if "how" in scores.get(key, {})]
    return "\n".join([*lines, *rows(scores, ROWS), "", *how, ""])


def rows(scores: Mapping[str, Any], words: Mapping[str, str]) -> list[str]:
    """Rows of a table in Markdown, of the scores that have words: what was trained on, accuracy, networks."""
    known = [(what, scores[key]) for key, what in words.items() if key in scores]
    return [f"| {what} | {of['mean']:.2%} ± {of['std']:.2%} | {of['n']} |" for what, of in known]
