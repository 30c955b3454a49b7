"""Hashes of everything that small runs of every method leave, to show that a change of the code changes no result.

    python -m benchmarks.hashes > before.txt       # then change the code, and
    python -m benchmarks.hashes | diff before.txt -

Only the command line is used, so that the same script runs before and after any change of the modules. Bits repeat on
one kind of CPU with one release of torch; what a run writes of seconds, memory and commits is left out.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

METHODS = (
    "mtt", "ftd", "tesla", "datm", "satm", "satm-fi", "satm-da", "contra", "satm-contra",
    "random", "herding", "k-center", "dc", "dsa", "dm", "mdc", "rat-bptt", "at-bptt",
)  # fmt: skip
STEPS = 6
SMALL = [
    "--steps", str(STEPS), "--experts", "2", "--expert.epochs", "3", "--expert.workers", "1", "--network.width", "8",
    "--matching.inner-steps", "6", "--matching.expert-epochs", "1", "--matching.last-epoch", "2", "--engine", "eager",
    "--matching.augment", "color_crop_cutout_flip_scale_rotate", "--outer.snapshots", "2", "--outer.threads", "1",
    "--evaluation.epochs", "4", "--evaluation.networks", "2", "--evaluation.random-draws", "2",
    "--evaluation.validation-networks", "1", "--evaluation.workers", "1",
    "--evaluation.foreign", "none",
]  # fmt: skip
# Methods whose steps match no trajectories heed nothing of the inner loop; small numbers of their own keep them short.
CONDENSING = ["--baseline.batch", "16", "--baseline.updates", "2", "--baseline.epochs", "2"]


def arguments(method: str, folder: Path, ipc: int) -> list[str]:
    """The command of one small run."""
    more = CONDENSING if method in ("dc", "dsa", "dm", "mdc", "rat-bptt", "at-bptt") else []
    if method == "satm-bptt":  # short runs match segments alone
        more = ["--baseline.since", str(STEPS // 3)]
    return ["run", "digits-ipc1", "--method", method, "--ipc", str(ipc), "--out", str(folder), *SMALL, *more]


def tensors(path: Path) -> dict[str, str]:
    """A digest of every tensor of a safetensors file, its type and shape in it."""
    found = {}
    with safe_open(path, framework="np") as file:
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            digest = blake2b(f"{array.dtype} {array.shape}".encode() + array.tobytes(), digest_size=8)
            found[name] = digest.hexdigest()
    return found


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without their seconds."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def short(value: Any) -> str:
    """A digest of a JSON value."""
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """What a finished run has left, by name."""
    found: dict[str, str] = {}
    for path in sorted([folder / "distilled.safetensors", *folder.glob("snapshots/*"), *folder.glob("experts/*")]):
        if path.suffix == ".safetensors":
            found |= {f"{path.relative_to(folder)} {name}": digest for name, digest in tensors(path).items()}
    networks = json.loads((folder / "networks.json").read_text("utf-8"))
    accuracies = networks.get("accuracy", networks) if isinstance(networks.get("accuracy"), dict) else networks
    found["networks.json"] = short({name: value for name, value in accuracies.items() if isinstance(value, float)})
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    found["metrics.jsonl"] = short(rows(folder / "metrics.jsonl"))
    found["summary.json accuracy"] = short(
        {name: [score["mean"], score["std"], score["n"]] for name, score in summary["accuracy"].items()}
    )
    found["summary.json step_size"] = short(summary["step_size"])
    return found


def interrupted(method: str, folder: Path) -> None:
    """A run that is asked to end after some of its steps, and goes on."""
    words = [sys.executable, "-m", "trajmatch", *arguments(method, folder, 1), "--outer.checkpoint-seconds", "1000"]
    words[words.index("--steps") + 1] = "40"
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_text("utf-8").splitlines()) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    if process.returncode != 130 or (folder / "distilled.safetensors").exists():
        raise SystemExit(f"the run was not interrupted in its steps: exit code {process.returncode}\n{said}")
    subprocess.run([*words, "--resume"], check=True, capture_output=True)


# What `trajmatch` does with a finished run, and the file that it leaves there.
VERBS = {
    "transfer": (["evaluate", "{}", "--networks", "mlp", "lenet"], "transfer.json"),
    "sizes": (["evaluate", "{}", "--sizes", "1"], "sizes.json"),
    "ranking": (["evaluate", "{}", "--ranking"], "ranking.json"),
    "search": (["search", "{}", "--depths", "1", "--widths", "4", "8", "--norms", "none", "--poolings", "avg",
                "--proxy-networks", "1", "--real-epochs", "1"], "search.json"),
    "correlation": (["diagnose", "correlation", "--run", "{}"], "diagnoses/correlation.json"),
    "interference": (["diagnose", "interference", "--run", "{}"], "diagnoses/interference.json"),
    "forgetting": (["diagnose", "forgetting", "--run", "{}"], "diagnoses/forgetting.json"),
    "accumulated-error": (["diagnose", "accumulated-error", "--run", "{}"], "diagnoses/accumulated-error.json"),
    "hypergradient-norm": (["diagnose", "hypergradient-norm", "--run", "{}"], "diagnoses/hypergradient-norm.json"),
    "truncation": (["diagnose", "truncation", "--run", "{}", "--steps", "2", "--networks", "1"],
                   "diagnoses/truncation.json"),
    "learning-rate": (["diagnose", "learning-rate", "--run", "{}", "--steps", "2", "--networks", "1"],
                      "diagnoses/learning-rate.json"),
    "landscape": (["diagnose", "landscape", "--run", "{}", "--grid", "3"], "diagnoses/landscape.json"),
    "nearest": (["diagnose", "nearest", "--run", "{}"], "diagnoses/nearest.json"),
}  # fmt: skip
# What differs between two calls that compute the same.
CHANGING = {
    "record_digest",
    "seconds",
    "command",
    "commands",
    "commit",
    "set",
    "torch",
    "digest",
    "of",
    "run",
    "folder",
    "forecast",
    "seconds_per_step",
}


def lasting(value: Any) -> Any:
    """A JSON value without what differs between two calls that compute the same."""
    if isinstance(value, dict):
        return {key: lasting(inner) for key, inner in value.items() if key not in CHANGING}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def verbs(call: Callable[[list[str]], int], folder: Path) -> dict[str, str]:
    """What the other verbs leave beside a finished run, and what a stream leaves, by name."""
    found = {}
    for name, (words, file) in VERBS.items():
        if call([word.format(folder) for word in words]) != 0:
            raise SystemExit(f"{name} failed")
        found[name] = short(lasting(json.loads((folder / file).read_text("utf-8"))))
    stream = folder.parent / "stream"
    words = ["continual", *arguments("satm", stream, 1)[1:], "--orders", "1", "--class-steps", "2"]
    if call([*words, "--fresh-networks", "1"]) != 0:
        raise SystemExit("continual failed")
    found["continual"] = short(lasting(json.loads((stream / "continual.json").read_text("utf-8"))))
    return found


def show(name: str, found: dict[str, str]) -> None:
    """A line for every hash."""
    for what, digest in found.items():
        print(f"{name:<24} {digest} {what}", flush=True)


def main() -> None:
    """Run every method and print the hashes of what it leaves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--methods", nargs="+", default=[*METHODS, "verbs", "interrupted"], help="which of the methods to run"
    )
    chosen = parser.parse_args().methods
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from trajmatch.run.cli import main as trajmatch

    def call(words: list[str]) -> int:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            return trajmatch(words)

    with TemporaryDirectory(prefix="trajmatch-hashes-") as scratch:
        for method in (m for m in METHODS if m in chosen):
            folder = Path(scratch) / method
            if (code := call(arguments(method, folder, 2 if method == "mdc" else 1))) != 0:
                raise SystemExit(f"{method}: exit code {code}")
            show(method, hashes(folder))
        if "verbs" in chosen:
            folder = Path(scratch) / "verbs" / "run"
            if call(arguments("satm", folder, 1)) != 0:
                raise SystemExit("the run for the other verbs failed")
            show("verbs", verbs(call, folder))
        if "interrupted" in chosen:
            whole, parted = Path(scratch) / "whole", Path(scratch) / "parted"
            interrupted("satm", parted)
            words = arguments("satm", whole, 1)
            words[words.index("--steps") + 1] = "40"
            if call(words) != 0 or hashes(whole) != hashes(parted):
                raise SystemExit("a run that was interrupted and went on differs from one that was not")
            show("satm, interrupted", hashes(parted))


if __name__ == "__main__":
    main()
