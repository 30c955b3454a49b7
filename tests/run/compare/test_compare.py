"""`trajmatch compare`: averages by hand, what stands in a row of its own, damaged records, pages that can be read."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.run.test_cli import refusal
from trajmatch.data.tensors import save_tensors
from trajmatch.run.cli import main
from trajmatch.run.compare.entries import read, read_stream
from trajmatch.run.compare.plots import by_network, by_seconds, by_size
from trajmatch.run.compare.protocol import measured_alike
from trajmatch.run.compare.rows import table
from trajmatch.settings.checks import resolve
from trajmatch.settings.config import Config, Matching
from trajmatch.settings.flat import flatten, nest

Captured = pytest.CaptureFixture[str]


def run(folder: Path, method: str, ipc: int, accuracy: float, seconds: float = 10.0, **settings: Any) -> Path:
    """A finished run's records."""
    folder.mkdir(parents=True)
    given = {"method": method, "ipc": ipc, **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    score = {"mean": accuracy, "std": 0.02, "n": 5, "how": "so"}
    summary = {
        "dataset": "digits", "method": method, "ipc": ipc, "steps": 100, "seconds": {"distill": seconds},
        "peak_memory_mb": 300.0, "accuracy": {"distilled": score, "random": {**score, "mean": 0.3}},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def made_from(folder: Path, content: str, experts: int) -> Path:
    """The folder, with a checkpoint that says what its set was made from."""
    header = {"settings": {"data": content, "experts": experts}}
    save_tensors(folder / "checkpoint.safetensors", {"x": torch.zeros(1)}, header)
    return folder


def of_images(folder: Path, images: str, **more: Any) -> Path:
    """The folder, with a summary or a stream that says of which images it is."""
    (path,) = (folder / name for name in ("summary.json", "continual.json") if (folder / name).exists())
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": images, **more}))
    return folder


def compared(tmp_path: Path, *folders: Path) -> list[dict[str, str]]:
    assert main(["compare", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        return list(csv.DictReader(file))


def protocols(rows: Sequence[dict[str, str]]) -> list[str]:
    return sorted(row["protocol"] for row in rows)


def test_seeds_are_averaged_and_the_best_comes_first(tmp_path: Path, capsys: Captured) -> None:
    folders = [
        run(tmp_path / "a", "mtt", 1, 0.5, seed=0),
        run(tmp_path / "b", "mtt", 1, 0.6, 30.0, seed=1, outer={"seed": 7}),
        run(tmp_path / "c", "satm", 1, 0.7),
        run(tmp_path / "d", "satm", 10, 0.8),
    ]
    rows = compared(tmp_path, *folders)
    assert [(row["method"], row["ipc"], row["runs"]) for row in rows] == [
        ("satm", "1", "1"),
        ("mtt", "1", "2"),
        ("satm", "10", "1"),
    ]
    mtt = rows[1]
    assert float(mtt["distilled"]) == pytest.approx(55)
    assert float(mtt["standard error"]) == pytest.approx(5)
    assert float(mtt["seconds"]) == 20
    assert float(mtt["random"]) == pytest.approx(30)
    assert mtt["networks"] == "10"
    assert {row["protocol"] for row in rows} == {"the same"}
    assert "whole" not in mtt, "no run has it"
    assert not (tmp_path / "out" / "streams.csv").exists()
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert "| 55.00 |" in markdown
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "| satm |" in capsys.readouterr().out


def test_what_differs_in_the_protocol_is_a_column_and_keeps_rows_apart(tmp_path: Path) -> None:
    folders = [
        run(tmp_path / "a", "mtt", 1, 0.5, evaluation={"epochs": 1000}),
        run(tmp_path / "b", "mtt", 1, 0.6, evaluation={"epochs": 300, "workers": 3}),
    ]
    rows = compared(tmp_path, *folders)
    assert [row["protocol"] for row in rows] == ["--evaluation.epochs 300", "--evaluation.epochs 1000"]
    rows = compared(tmp_path, *folders, run(tmp_path / "c", "satm", 1, 0.7))
    assert rows[0]["protocol"] == "--evaluation.epochs 1000", "told of every run, for methods are compared by it"


def test_other_steps_or_settings_of_a_method_are_other_experiments(tmp_path: Path) -> None:
    folders = [
        run(tmp_path / "a", "dm", 1, 0.5, steps=5),
        run(tmp_path / "b", "dm", 1, 0.65, steps=20),
        run(tmp_path / "c", "dm", 1, 0.2, steps=5, baseline={"lr_images": 50.0}),
        run(tmp_path / "d", "dm", 1, 0.7, steps=5, seed=1),
        run(tmp_path / "e", "mtt", 1, 0.4, steps=9),
    ]
    rows = compared(tmp_path, *folders)
    assert [(row["method"], row["runs"], row["protocol"]) for row in rows] == [
        ("dm", "1", "--steps 20 --baseline.lr-images None"),
        ("dm", "2", "--steps 5 --baseline.lr-images None"),
        ("mtt", "1", "the same"),
        ("dm", "1", "--steps 5 --baseline.lr-images 50.0"),
    ]
    assert float(rows[1]["distilled"]) == pytest.approx(60)


def test_what_a_method_has_filled_in_is_not_told_beside_its_cause(tmp_path: Path) -> None:
    """Records hold all settings, some of which follow from the steps: how fast a window grows, and FTD's average."""
    base = Config(method="ftd", steps=100)
    configs = [base, replace(base, steps=300), replace(base, matching=Matching(sharpness="sam", window_steps=10))]
    folders = [run(tmp_path / str(k), "ftd", 1, 0.5) for k in range(len(configs))]
    for folder, config in zip(folders, configs, strict=True):
        (folder / "config.yaml").write_text(yaml.safe_dump(nest(flatten(resolve(config)))))
    assert protocols(compared(tmp_path, *folders)) == [
        "--steps 100 --matching.sharpness none",
        "--steps 100 --matching.sharpness sam",
        "--steps 300 --matching.sharpness none",
    ]


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({"device": "cuda", "engine": "eager", "resume": True, "micro_batch": 5, "memory": "4GB", "out": "x"}, False),
        ({"matching": {"keep_every": 2, "together": "no"}, "expert": {"workers": 3, "shard": "0/2"}}, False),
        ({"evaluation": {"architectures": ["lenet"], "rates": [0.1], "sizes": [1]}}, False),
        ({"matching": {"restart_step": 0, "sharpness": "auto"}, "outer": {"lr_images": 100}}, False),
        ({"precision": "bf16"}, True),
        ({"outer": {"lr_images": 1.0}}, True),
        ({"expert": {"lr": 0.1}}, True),
        ({"experts": "20"}, True),
        ({"images": {"size": 4}}, True),
        ({"outer": {"threads": 2}}, True),
        ({"matching": {"combine": "adaptive"}}, True),
    ],
)
def test_what_cannot_change_results_keeps_nothing_apart(tmp_path: Path, settings: dict[str, Any], apart: bool) -> None:
    folders = [run(tmp_path / "a", "mtt", 1, 0.5), run(tmp_path / "b", "mtt", 1, 0.6, **settings)]
    rows = compared(tmp_path, *folders)
    assert len(rows) == 1 + apart
    assert (rows[0]["protocol"] == "the same") is not apart


def test_settings_of_experts_mean_nothing_to_a_method_that_has_none(tmp_path: Path) -> None:
    others: dict[str, Any] = {"experts": "elsewhere", "expert": {"epochs": 3, "lr": 0.5}}
    folders = [run(tmp_path / "a", "dm", 1, 0.5), run(tmp_path / "b", "dm", 1, 0.6, seed=1, **others)]
    assert [row["protocol"] for row in compared(tmp_path, *folders)] == ["the same"]
    matching = [run(tmp_path / "c", "mtt", 1, 0.4), run(tmp_path / "d", "mtt", 1, 0.3, **others)]
    assert [row["protocol"] for row in compared(tmp_path, *folders, *matching)] == [
        "the same",
        "--experts 10 --expert.epochs 50 --expert.lr 0.01",
        "--experts elsewhere --expert.epochs 3 --expert.lr 0.5",
    ]
    whole = [
        run(tmp_path / f"{name} whole", "dm", 1, 0.5, evaluation={"whole_epochs": 1}, **settings)
        for name, settings in {"a": {}, "b": others}.items()
    ]
    assert protocols(compared(tmp_path, *whole)) == ["--expert.lr 0.01", "--expert.lr 0.5"], (
        "the whole set is trained so"
    )


def test_the_same_images_are_the_same_data_wherever_they_lie(tmp_path: Path) -> None:
    here = of_images(run(tmp_path / "a", "mtt", 1, 0.5, data="here"), "0" * 32)
    there = of_images(run(tmp_path / "b", "mtt", 1, 0.6, data="there", seed=1), "0" * 32, dataset="figures")
    # One of an older version does not say of which images it is: they are those of its --data.
    old = run(tmp_path / "c", "mtt", 1, 0.7, data="here", seed=2)
    (row,) = compared(tmp_path, here, there, old)
    assert (row["dataset"], row["runs"], row["protocol"]) == ("digits", "3", "the same")
    other = run(tmp_path / "d", "mtt", 1, 0.8, data="elsewhere")
    assert protocols(compared(tmp_path, here, there, other)) == ["--data elsewhere", "--data here"]


def test_files_that_have_changed_in_between_are_other_data(tmp_path: Path) -> None:
    folders = [of_images(run(tmp_path / f"{k}", "mtt", 1, 0.5, data="here", seed=k), str(k) * 32) for k in range(2)]
    old = run(tmp_path / "old", "mtt", 1, 0.5, data="here")
    assert protocols(compared(tmp_path, *folders, old)) == [
        "--data here (images 00000000)",
        "--data here (images 11111111)",
        "--data here (images unknown)",
    ]


def test_images_that_were_read_otherwise_are_told_by_how(tmp_path: Path) -> None:
    folders = [
        of_images(run(tmp_path / f"{k}", "mtt", 1, 0.5, data="here", images={"size": 4 + k}), str(k) * 32)
        for k in range(2)
    ]
    assert protocols(compared(tmp_path, *folders)) == ["--images.size 4", "--images.size 5"]
    # The hash is of all images, before some of them are drawn, so that another share explains no other hash.
    for k, folder in enumerate(folders):
        add(folder, "config.yaml", {"method": "mtt", "ipc": 1, "data": "here", "images": {"validation": 0.1 + k / 10}})
    assert protocols(compared(tmp_path, *folders)) == [
        "--data here (images 00000000) --images.validation 0.1",
        "--data here (images 11111111) --images.validation 0.2",
    ]


def test_the_number_of_experts_counts_and_not_their_folder(tmp_path: Path) -> None:
    folders = [
        made_from(run(tmp_path / "a", "mtt", 1, 0.5, experts="7"), "0" * 32, 7),
        made_from(run(tmp_path / "b", "mtt", 1, 0.6, experts="a/experts", outer={"seed": 1}), "0" * 32, 7),
        made_from(run(tmp_path / "c", "mtt", 1, 0.7, experts="a/experts"), "0" * 32, 5),
    ]
    rows = compared(tmp_path, *folders)
    assert [(row["runs"], row["protocol"]) for row in rows] == [("1", "--experts 5"), ("2", "--experts 7")]


def test_a_folder_that_is_named_twice_counts_once(tmp_path: Path, capsys: Captured) -> None:
    first = run(tmp_path / "a", "mtt", 1, 0.5)
    (tmp_path / "link").symlink_to(first)
    (row,) = compared(tmp_path, first, tmp_path / "link", tmp_path / "a" / ".." / "a")
    assert (row["runs"], row["networks"]) == ("1", "5")
    assert "standard error" not in row
    said = capsys.readouterr().out
    assert f"{tmp_path / 'link'} is the same folder as {first}, and counts once" in said
    assert said.count("counts once") == 2


def add(folder: Path, name: str, record: Any) -> Path:
    """The folder, with a record that `trajmatch evaluate` would leave there."""
    (folder / name).write_text(json.dumps(record))
    return folder


def test_transfer_and_ranking_are_shown_where_they_are(tmp_path: Path) -> None:
    folders = [run(tmp_path / "a", "mtt", 1, 0.5), run(tmp_path / "b", "satm", 1, 0.6)]
    networks = {"convnet": {"learned": {"mean": 0.5}}, "lenet": {"learned": {"mean": 0.1}, "tuned": {"mean": 0.25}}}
    add(folders[0], "transfer.json", {"networks": networks})
    add(folders[1], "ranking.json", {"lrs": 0.2, "ars": 0.3})
    satm, mtt = compared(tmp_path, *folders)
    assert (mtt["to convnet"], mtt["to lenet"], mtt["lrs"]) == ("50.0", "25.0", "")
    assert (satm["to lenet"], satm["lrs"], satm["ars"]) == ("", "0.2", "0.3")
    assert satm["protocol"] == mtt["protocol"] == "the same"


def transferred(folder: Path, accuracy: float, **measured: Any) -> Path:
    return add(folder, "transfer.json", {"networks": {"mlp": {"learned": {"mean": accuracy}}}, **measured})


def notes(tmp_path: Path) -> list[str]:
    """What the last comparison says under its table, on every page and on the screen."""
    lines = (tmp_path / "out" / "compare.md").read_text().splitlines()
    found = [line for line in lines if line and not line.startswith("|")]
    page = unescape((tmp_path / "out" / "compare.html").read_text())
    assert all(f'<p class="note">{line}</p>' in page for line in found)
    return found


def test_what_was_measured_in_another_way_beside_is_not_averaged(tmp_path: Path, capsys: Captured) -> None:
    short, long = ({"settings": {"evaluation.epochs": epochs}, "rates": [0.01]} for epochs in (300, 1000))
    runs = [run(tmp_path / f"{k}", "mtt", 1, 0.5, seed=k) for k in range(4)]
    transferred(runs[0], 0.2, **short)
    transferred(runs[1], 0.4, **short)
    (row,) = compared(tmp_path, *runs)
    assert (row["runs"], row["protocol"]) == ("4", "the same"), "those without stand with them"
    assert float(row["to mlp"]) == pytest.approx(30)
    assert notes(tmp_path) == []
    transferred(runs[2], 0.9, **long)
    (row,) = compared(tmp_path, *reversed(runs))
    assert (row["runs"], row["protocol"], row["to mlp"]) == ("4", "the same", str(100 * 0.3)), "as most were"
    (note,) = notes(tmp_path)
    assert note == (
        "Accuracies on other networks were measured with --evaluation.epochs 300; those of 2, measured with "
        "--evaluation.epochs 1000, are not shown"
    )
    assert note in capsys.readouterr().out
    other = transferred(run(tmp_path / "other", "satm", 1, 0.6), 0.5, networks_of="an older version", rates=[0.01])
    rows = {row["method"]: row for row in compared(tmp_path, runs[0], other)}
    assert (rows["mtt"]["to mlp"], rows["satm"]["to mlp"]) == ("20.0", ""), "of two methods too; the first stays"
    assert "those of other, measured with --evaluation.epochs not recorded, are not shown" in notes(tmp_path)[0]


def test_scores_of_another_recipe_are_not_averaged(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{k}", "mtt", 1, 0.5, seed=k) for k in range(3)]
    transferred(runs[0], 0.2, settings={"evaluation.epochs": 300})  # of an older version, which knew mtt alone
    transferred(runs[1], 0.4, settings={"evaluation.epochs": 300, "evaluation.recipe": "mtt"})
    transferred(runs[2], 0.9, settings={"evaluation.epochs": 300, "evaluation.recipe": "adamw"})
    (row,) = compared(tmp_path, *runs)
    assert float(row["to mlp"]) == pytest.approx(30)
    assert notes(tmp_path) == [
        "Accuracies on other networks were measured with --evaluation.recipe mtt; those of 2, measured with "
        "--evaluation.recipe adamw, are not shown"
    ]


def test_factor_and_recipe_are_told_of_every_row_unless_they_are_the_usual_ones(tmp_path: Path) -> None:
    usual, tiles = run(tmp_path / "a", "mtt", 1, 0.5), run(tmp_path / "b", "mtt", 1, 0.6, factor=2)
    other = run(tmp_path / "c", "mtt", 1, 0.7, **{"evaluation.recipe": "adamw"})
    assert protocols(compared(tmp_path, usual)) == ["the same"]
    assert protocols(compared(tmp_path, tiles)) == ["--factor 2"]
    assert protocols(compared(tmp_path, other)) == ["--evaluation.recipe adamw"]
    rows = {row["distilled"]: row["protocol"] for row in compared(tmp_path, usual, tiles, other)}
    assert len(rows) == 3
    assert all("--factor" in told and "--evaluation.recipe" in told for told in rows.values())


def test_scores_are_compared_with_those_of_their_settings_and_rates(tmp_path: Path) -> None:
    runs = [run(tmp_path / f"{k}", "mtt", 1, 0.5, seed=k) for k in range(3)]
    settings = {"evaluation.epochs": 300, "evaluation.workers": 2}
    add(runs[0], "ranking.json", {"lrs": 0.2, "ars": 0.3, "settings": settings, "rates": [0.1]})
    add(runs[1], "ranking.json", {"lrs": 0.4, "ars": 0.5, "settings": {"evaluation.epochs": 300.0}, "rates": [0.1]})
    transferred(runs[1], 0.4)
    (row,) = compared(tmp_path, *runs)
    assert float(row["lrs"]) == pytest.approx(0.3)
    add(runs[1], "ranking.json", {"lrs": 0.4, "ars": 0.5, "settings": settings, "rates": [0.1, 0.2]})
    (row,) = compared(tmp_path, *runs)
    assert (row["runs"], row["lrs"], row["ars"]) == ("3", "0.2", "0.3")
    assert float(row["to mlp"]) == pytest.approx(40), "what was measured alike stays"
    assert notes(tmp_path) == [
        "The scores lrs and ars were measured with --evaluation.rates 0.1; those of 1, measured with "
        "--evaluation.rates 0.1 0.2, are not shown"
    ]


def test_a_network_beside_the_scores_tells_no_runs_apart(tmp_path: Path) -> None:
    named = {k: {"foreign": name} for k, name in enumerate(("none", "lenet", "vgg11"))}
    runs = [run(tmp_path / f"{k}", "mtt", 1, 0.5, seed=k, evaluation=of) for k, of in named.items()]
    (row,) = compared(tmp_path, *runs, run(tmp_path / "old", "mtt", 1, 0.5, seed=9))
    assert (row["runs"], row["protocol"]) == ("4", "the same")


def test_transfer_to_other_images_is_said(tmp_path: Path) -> None:
    runs = [made_from(run(tmp_path / f"{k}", "mtt", 1, 0.5, outer={"seed": k}), "0" * 32, 10) for k in range(2)]
    transferred(runs[0], 0.2, content=["set", "0" * 32])
    transferred(runs[1], 0.4, content=["set", "1" * 32])
    (row,) = compared(tmp_path, *runs)
    assert row["to mlp"] == "20.0"
    assert notes(tmp_path) == [
        "Accuracies on other networks were measured with --data of the run; those of 1, measured with "
        "--data of other images (11111111), are not shown"
    ]


def test_folders_that_are_no_finished_runs_are_refused(tmp_path: Path, capsys: Captured) -> None:
    assert "name the run folders" in refusal(capsys, "compare")
    assert "is not a run folder" in refusal(capsys, "compare", tmp_path)
    (tmp_path / "config.yaml").write_text("ipc: 1\n")
    assert "is not finished" in refusal(capsys, "compare", tmp_path)
    (tmp_path / "summary.json").write_text("nonsense")
    assert "is not a record of a run" in refusal(capsys, "compare", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("summary.json", "{}", "dataset is missing"),
        ("summary.json", "[]", "the whole of it must be names and values"),
        ("summary.json", '{"dataset": "d", "method": "new"}', "method must be the name of a method"),
        ("summary.json", "\x00", "Expecting value"),
        ("transfer.json", "{}", "networks is missing"),
        ("transfer.json", '{"networks": ["mlp"]}', "networks must be names and values"),
        ("transfer.json", '{"networks": {"mlp": {"learned": 1}}}', "networks.mlp.learned must be names and values"),
        ("transfer.json", '{"networks": {"mlp": {"learned": {"mean": "1"}}}}', "networks.mlp.learned.mean must be a"),
        ("transfer.json", '{"networks": {"mlp": {"learned": {"mean": 1}, "tuned": {}}}}', "mlp.tuned.mean is missing"),
        ("transfer.json", '{"networks": {}, "settings": [1]}', "settings must be names and values"),
        ("ranking.json", "[]", "the whole of it must be names and values"),
        ("ranking.json", '{"lrs": "x"}', "lrs must be a finite number"),
        ("ranking.json", '{"lrs": 0.1, "ars": NaN}', "ars must be a finite number"),
        ("ranking.json", '{"lrs": 0.1', "Expecting"),
        (
            "config.yaml",
            "matching:\n  inner_steps: many\n",
            "--matching.inner-steps is 'many' and must be a whole number",
        ),
        ("config.yaml", "images:\n  classes: 3\n", "--images.classes is 3 and must be a list"),
        ("config.yaml", "steps: 0\n", "--steps is 0 and must be at least 1"),
        ("checkpoint.safetensors", "nonsense", "not a file that trajmatch wrote"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, capsys: Captured, name: str, text: str, wrong: str) -> None:
    folder = run(tmp_path / "a", "mtt", 1, 0.5)
    (folder / name).write_text(text)
    said = refusal(capsys, "compare", folder)
    assert str(folder / name) in said
    assert wrong in said


@pytest.mark.parametrize("key", ["steps", "seconds", "peak_memory_mb", "accuracy", "ipc"])
@pytest.mark.parametrize("value", ["words", None])
def test_a_summary_needs_what_the_table_shows(tmp_path: Path, capsys: Captured, key: str, value: Any) -> None:
    folder = run(tmp_path / "a", "mtt", 1, 0.5)
    record = json.loads((folder / "summary.json").read_text())
    add(folder, "summary.json", {**record, key: value})
    assert f"summary.json: this is not a record of a run: {key} must be" in refusal(capsys, "compare", folder)


def drawn(axes: Any) -> dict[str, list[tuple[float, float]]]:
    """The points of every line, by its name in the legend."""
    names = [text.get_text() for legend in (axes.get_legend(), *axes.figure.legends) if legend for text in legend.texts]
    lines = [list(zip(*map(list, line.get_data()), strict=True)) for line in axes.get_lines()]
    return dict(zip(names, lines, strict=True))


def test_a_line_joins_runs_of_one_data_set_method_and_protocol(tmp_path: Path) -> None:
    folders = [run(tmp_path / f"{m} {n}", m, n, 0.1 * n, steps=100 * n) for m in ("mtt", "satm") for n in (1, 5)]
    axes = by_size(table([read(folder) for folder in folders])).axes[0]
    assert drawn(axes) == {"mtt": [(1, 10), (5, 50)], "satm": [(1, 10), (5, 50)]}

    short = run(tmp_path / "short", "satm", 1, 0.05, steps=7)
    axes = by_size(table([read(folder) for folder in (*folders, short)])).axes[0]
    assert drawn(axes) == {
        "mtt": [(1, 10), (5, 50)],
        "satm, --steps 100": [(1, 10)],
        "satm, --steps 500": [(5, 50)],
        "satm, --steps 7": [(1, 5)],
    }

    cats = [run(tmp_path / f"cats {n}", "mtt", n, 0.9) for n in (1, 5)]
    for folder in cats:
        record = json.loads((folder / "summary.json").read_text())
        add(folder, "summary.json", {**record, "dataset": "cats"})
    axes = by_size(table([read(folder) for folder in (*folders, *cats)])).axes[0]
    assert drawn(axes) == {
        "mtt, cats": [(1, 90), (5, 90)],
        "mtt, digits": [(1, 10), (5, 50)],
        "satm, digits": [(1, 10), (5, 50)],
    }


def test_bars_are_of_one_kind_and_say_so(tmp_path: Path) -> None:
    """Two runs have a standard error of 20 points, one has none; the bars are of the networks' 2 points for both."""
    folders = [run(tmp_path / f"{k}", "mtt", 1, 0.1 + 0.4 * k, seed=k) for k in range(2)]
    folders.append(run(tmp_path / "one", "satm", 1, 0.6))
    axes = by_seconds(table([read(folder) for folder in folders])).axes[0]
    heights = [segment[1][1] - segment[0][1] for bar in axes.collections for segment in bar.get_segments()]
    assert heights == pytest.approx([4, 4])
    assert "std over the networks" in axes.get_ylabel()
    assert [text.get_text() for text in axes.texts] == ["satm, 1", "mtt, 1"]


def test_accuracies_that_were_not_measured_are_no_bars(tmp_path: Path) -> None:
    one = transferred(run(tmp_path / "a", "mtt", 1, 0.5), 0.2, settings={"evaluation.epochs": 300})
    two = run(tmp_path / "b", "satm", 1, 0.6)
    add(two, "transfer.json", {"networks": {"vit": {"learned": {"mean": 0.3}}}, "settings": {"evaluation.epochs": 300}})
    bare, other = run(tmp_path / "c", "dm", 1, 0.6), run(tmp_path / "d", "ftd", 1, 0.6)
    transferred(other, 0.9, settings={"evaluation.epochs": 9})
    entries, _ = measured_alike([read(folder) for folder in (one, two, bare, other)])
    axes = by_network(table(entries)).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [30, 20]
    assert [text.get_text() for text in axes.get_legend().texts] == ["satm, 1", "mtt, 1"]


def stream(folder: Path, method: str, mean: list[float], **config: Any) -> Path:
    """A stream's record."""
    folder.mkdir()
    found = {"dataset": "digits", "method": method, "ipc": 2, "n": "2 orders x 3 networks", "classes_seen": [5, 10]}
    return add(folder, "continual.json", {**found, "mean": mean, "std": [0.01, 0.02], "config": config})


def test_streams_stand_beside_runs(tmp_path: Path) -> None:
    streams = [stream(tmp_path / "s", "satm", [0.8, 0.7]), stream(tmp_path / "t", "dm", [0.75, 0.6])]
    assert main(["compare", *map(str, streams), "--out", str(tmp_path / "only")]) == 0
    text = (tmp_path / "only" / "compare.md").read_text()
    assert "| digits | satm | 2 | 2 orders x 3 networks | 80.00 | 1.00 | 70.00 | 2.00 | the same |" in text
    assert "| 5 classes | std of 5 | 10 classes | std of 10 | protocol |" in text
    assert (tmp_path / "only" / "compare.html").read_text().count("data:image/png") == 1
    more = tmp_path / "u"
    stream(more, "mtt", [0.9, 0.8])
    record = json.loads((more / "continual.json").read_text())
    add(more, "continual.json", {**record, "classes_seen": [2, 10], "dataset": "cats"})
    assert main(["compare", *map(str, [more, *streams]), "--out", str(tmp_path / "other")]) == 0
    head = (tmp_path / "other" / "compare.md").read_text().splitlines()[0]
    assert all(f"| {name} |" in head for name in ("2 classes", "5 classes", "10 classes"))
    assert head.endswith("| protocol |")


def test_runs_and_streams_have_files_of_their_own(tmp_path: Path) -> None:
    one, flow, out = run(tmp_path / "a", "mtt", 1, 0.5), stream(tmp_path / "s", "satm", [0.8, 0.7]), tmp_path / "out"
    assert main(["compare", str(one), str(flow), "--out", str(out)]) == 0
    for name, method in (("compare.csv", "mtt"), ("streams.csv", "satm")):
        with open(out / name, newline="") as file:
            (row,) = csv.DictReader(file)
        assert (row["method"], None in row) == (method, False)
    html = (out / "compare.html").read_text()
    assert html.count("<table>") == 2
    assert html.count("data:image/png") == 2
    assert main(["compare", str(flow), "--out", str(out)]) == 0
    assert not (out / "compare.csv").exists(), "it would be of other runs than these pages"
    assert (out / "streams.csv").exists()


def test_streams_of_other_settings_do_not_look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawings: list[list[str]] = []
    monkeypatch.setattr("trajmatch.run.compare.plots.streams", lambda _, names: drawings.append(names))
    monkeypatch.setattr("trajmatch.run.compare.plots.png", lambda _: b"")

    def rows(*folders: Path) -> list[str]:
        assert main(["compare", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
        with open(tmp_path / "out" / "streams.csv", newline="") as file:
            return [row["protocol"] for row in csv.DictReader(file)]

    one = stream(tmp_path / "s", "satm", [0.8, 0.7], **{"steps": 100, "evaluation.epochs": 300})
    two = stream(tmp_path / "t", "satm", [0.6, 0.5], **{"steps": 100, "evaluation.epochs": 5, "device": "cuda"})
    dm = stream(tmp_path / "dm", "dm", [0.6, 0.5], **{"steps": 400, "evaluation.epochs": 300})
    assert rows(one, two, dm) == ["--evaluation.epochs 300", "--evaluation.epochs 5", "--evaluation.epochs 300"]
    assert drawings[-1] == ["satm, --evaluation.epochs 300", "satm, --evaluation.epochs 5", "dm"]
    assert rows(one, dm) == ["the same", "the same"], "steps are their methods' own"
    seeded = stream(tmp_path / "u", "satm", [0.8, 0.7], **{"steps": 100, "evaluation.epochs": 300, "seed": 1})
    assert rows(one, seeded) == ["--seed 0", "--seed 1"], "streams are not averaged"
    same = stream(tmp_path / "v", "satm", [0.8, 0.7], **{"steps": 100, "evaluation.epochs": 300})
    assert rows(one, same) == ["the same", "the same"]
    assert drawings[-1] == ["satm (s)", "satm (v)"]


def test_streams_are_told_apart_by_their_images(tmp_path: Path) -> None:
    found = [of_images(stream(tmp_path / f"{k}", "satm", [0.8, 0.7]), str(k // 2) * 32) for k in range(4)]
    assert main(["compare", *map(str, found), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "streams.csv", newline="") as file:
        told = [row["protocol"].partition("(")[2] for row in csv.DictReader(file)]
    assert told == [f"images {digit * 8})" for digit in "0011"]


def test_a_stream_is_of_the_images_and_experts_of_its_first_step(tmp_path: Path) -> None:
    found = stream(tmp_path / "s", "satm", [0.8, 0.7])
    (found / "order-0" / "step-0").mkdir(parents=True)
    made_from(found / "order-0" / "step-0", f"{'0' * 32}, classes 1 4", 3)
    entry = read_stream(found)
    assert (entry.content, entry.settings["experts"]) == ("0" * 32, "3")


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({}, "dataset is missing"),
        ([], "the whole of it must be names and values"),
        ({"mean": 0.5}, "mean must be a list of finite numbers"),
        ({"mean": [0.5]}, "mean and std must be as long as classes_seen"),
        ({"std": [0.5, "x"]}, "std must be a list of finite numbers"),
        ({"classes_seen": []}, "classes_seen must be a list of finite numbers"),
        ({"config": ["steps"]}, "config must be names and values"),
        ({"config": {"steps": "many"}}, "--steps is 'many' and must be a whole number"),
    ],
)
def test_damaged_streams_are_named(tmp_path: Path, capsys: Captured, change: Any, wrong: str) -> None:
    folder = stream(tmp_path / "s", "satm", [0.8, 0.7])
    record = json.loads((folder / "continual.json").read_text())
    add(folder, "continual.json", {**record, **change} if isinstance(change, dict) and change else change)
    said = refusal(capsys, "compare", folder)
    assert str(folder / "continual.json") in said
    assert wrong in said
