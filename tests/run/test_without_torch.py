"""Help and refusals come before torch does, for every verb; in a process of their own, for this one has it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small import command, succeed
from trajmatch.run.verbs import VERBS

SCRIPT = """
import contextlib, io, json, sys
from trajmatch.run.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            codes.append(main(words))
        except SystemExit as ended:
            codes.append(ended.code)
print(json.dumps([codes, "torch" in sys.modules]))
"""


def ends(*commands: list[str]) -> tuple[list[int], bool]:
    """The exit codes of commands, and whether one of them has loaded torch."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True, check=True
    )
    codes, loaded = json.loads(process.stdout.splitlines()[-1])
    return codes, loaded


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_no_help_waits_for_torch(flag: str) -> None:
    assert ends(*([verb, flag] for verb in VERBS)) == ([0] * len(VERBS), False)


def test_no_refused_flag_waits_for_torch(tmp_path: Path) -> None:
    folder = str(tmp_path / "r")
    succeed(*command("distill", "--method", "random", "--out", folder))
    refused = [
        *([verb, "--no-such-flag"] for verb in VERBS),
        *([verb, folder, "--seed", "x"] for verb in ("evaluate", "search")),
        *([verb, str(tmp_path / "none")] for verb in ("evaluate", "search")),
        ["continual", "--orders", "few"],
        ["run", "--steps", "-3"],
    ]
    assert ends(*refused) == ([2] * len(refused), False)
    assert ends(["evaluate", folder, "--evaluation.networks", "1", "--evaluation.epochs", "1"]) == ([0], True)
