"""README and docs are true of the code: commands parse, flags and presets exist, links lead somewhere, doctests run."""

import dataclasses
import doctest
import importlib
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import tyro

import trajmatch
from benchmarks import scale_table
from benchmarks.comparison import Comparison
from trajmatch.run.cli import VERBS
from trajmatch.settings.command_line import configuration
from trajmatch.settings.config import Config
from trajmatch.settings.diagnoses import check
from trajmatch.settings.flat import flatten
from trajmatch.settings.kinds import flag
from trajmatch.settings.options import Compare, Continual, Diagnose, Evaluate, Export, Import, Plan, Push, Run, Search
from trajmatch.settings.presets import NAMES, preset
from trajmatch.settings.words import SHORT

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = {flag(key) for key in flatten(Config())} | {"--config", "--images.no-hold-out", "--no-whitening", "--help"}
FLAGS |= {
    flag(field.name)
    for options in (Compare, Continual, Diagnose, Evaluate, Export, Import, Plan, Push, Run, Search)
    for field in dataclasses.fields(options)
}
REPOSITORY = r"https://(?:github\.com/trajmatch/trajmatch/blob|raw\.githubusercontent\.com/trajmatch/trajmatch)/main/"
PIP = {"--no-deps", "--index-url", "--force-reinstall", "--check"}
OTHERS = {"--quick", "--json", "--plot", "--batch", "--probe", "--validate", "--kills", "--signals", "--folder", *SHORT}
OTHERS.add("--logdir")  # TensorBoard's
OTHERS |= {flag(field.name) for field in dataclasses.fields(Comparison)}

# torchrun's and Slurm's.
STARTS = {
    "--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id", "--max-restarts", "--standalone",
    "--nodes", "--ntasks-per-node", "--gpus-per-node", "--requeue", "--array",
}  # fmt: skip


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]  # joined where one goes on
    return [line for line in lines if line.strip()]


@pytest.mark.parametrize("path", [one for one in DOCUMENTS if one.parent.name == "docs"], ids=lambda path: path.name)
def test_the_site_has_the_pages_that_its_pages_lead_to(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).resolve().parent == path.parent, f"{target} is not a page of the site"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_flags_exist(path: Path) -> None:
    for name in re.findall(r"(?<![\w-])--[a-z][\w.-]*", path.read_text(encoding="utf-8")):
        assert name.rstrip(".") in FLAGS | PIP | OTHERS | STARTS, name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(rf"{REPOSITORY}([^)#\s]+)\)", text):
        assert (ROOT / target).exists(), target


def test_links_of_the_readme_work_on_the_package_s_page() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert any(re.match(REPOSITORY, target) for target in targets)
    for target in targets:
        assert target.startswith("https://"), (
            f"{target}: write it as https://github.com/trajmatch/trajmatch/blob/main/..."
        )


def test_urls_of_the_package_are_of_the_same_repository() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert {"Homepage", "Documentation", "Changelog", "Issues"} <= set(urls)
    for url in urls.values():
        assert url.startswith("https://github.com/trajmatch/trajmatch")
        if (file := re.match(REPOSITORY, url)) is not None:
            assert (ROOT / url[file.end() :]).exists(), url


def commands(paths: Sequence[Path] = DOCUMENTS) -> list[list[str]]:
    """The words behind `trajmatch` of every command in the blocks of pages, in order."""
    found = []
    for path in paths:
        for line in shell_lines(path.read_text(encoding="utf-8")):
            for part in line.split("&&"):
                words = shlex.split(part.replace("$SLURM_ARRAY_TASK_ID", "0"), comments=True)
                while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a variable for this command
                    words = words[1:]
                if "torchrun" in words:
                    words = words[words.index("-m") + 1 :]
                if words[:1] == ["trajmatch"]:
                    found.append(words[1:])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_parse(words: list[str]) -> None:
    verb, rest = words[0], words[1:]
    assert verb in VERBS
    base = preset("digits-ipc1")
    if verb == "compare":
        assert rest
        return
    if verb == "push":
        assert len(rest) >= 2
        tyro.cli(Push, args=rest[2:])
        return
    if verb == "diagnose" and rest:
        check(rest[0], tyro.cli(Diagnose, args=rest[1:]))
        return
    if verb == "import":
        flags = next(k for k, word in enumerate(rest) if word.startswith("-"))
        assert flags
        configuration("trajmatch", base, rest[flags:], Import)
        return
    if verb == "export":
        assert tyro.cli(Export, args=rest[1:]).format
        return
    if rest and not rest[0].startswith("-"):
        if verb in ("run", "experts", "distill", "plan", "continual"):
            base = preset(rest[0])
        rest = rest[1:]
    configuration(
        "trajmatch",
        base,
        rest,
        VERBS[verb].options,
    )


def test_the_table_of_scale_is_what_its_script_prints() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- table: benchmarks.scale_table -->\n\n(.*?)\n\n<!-- end -->", page, flags=re.DOTALL)
    assert found is not None
    assert found[1] == scale_table.text()


def test_presets_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(digits-\w+|cifar10-\w+)`", text):
        assert name in NAMES


def test_the_readmes_tree_names_every_module_of_core() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for module in (ROOT / "trajmatch" / "core").glob("[a-z]*.py"):
        assert re.search(rf"^ +{module.stem} ", text, flags=re.MULTILINE), module.stem


def test_cited_sections_of_the_method_exist() -> None:
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\d+)\.", method, flags=re.MULTILINE))
    cited = set()
    for path in (ROOT / "trajmatch").rglob("*.py"):
        cited |= set(re.findall(r"method\.md,? sections? (\d)", path.read_text(encoding="utf-8")))
    assert cited
    assert cited <= sections


def test_public_names_exist() -> None:
    for name in [*trajmatch.__all__, "__version__"]:
        assert getattr(trajmatch, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trajmatch.nothing


def test_doctests() -> None:
    attempted = 0
    for path in sorted((ROOT / "trajmatch" / "core").glob("[a-z]*.py")):
        with torch.random.fork_rng(devices=[]):  # an example may make a module, which draws its weights
            results = doctest.testmod(importlib.import_module(f"trajmatch.core.{path.stem}"))
        assert results.failed == 0
        attempted += results.attempted
    assert attempted > 5
