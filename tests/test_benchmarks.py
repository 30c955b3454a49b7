"""The benchmarks' arithmetic and records; what they measure is never tested."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure, outer_step, pictures, segments, step_tables, summary, tables
from benchmarks.outer_step import TESLA, UNROLLED, Case, Segment, Side
from trajmatch.data.networks.convnet import build, convnet
from trajmatch.data.tensors import save_tensors

CPU = torch.device("cpu")
FIELDS = (
    "estimator engine precision batch inner_steps seconds seconds_spread peak_memory_mb relative_error cosine "
    "speedup_vs_unrolled speedup_vs_tesla"
)


def test_ratios_are_paired_within_rounds() -> None:
    assert measure.paired_ratio([2.0, 40.0, 6.0], [1.0, 10.0, 3.0]) == 2.0
    assert measure.spread([1.0, 4.0, 2.0]) == 1.5


def test_a_table() -> None:
    rows = [{"a": "x", "b": 0.12345, "c": None}, {"a": "longer", "b": 1234.5, "c": 1e-6}]
    assert measure.table(rows, {"a": "A", "b": "B", "c": "C"}).splitlines() == [
        "| A      | B     | C     |",
        "|--------|-------|-------|",
        "| x      | 0.123 | -     |",
        "| longer | 1234  | 1e-06 |",
    ]


def test_rows_stand_beside_the_committed_table_of_their_kind(tmp_path: Path) -> None:
    side = asdict(Side("adjoint", "fused"))
    row = {**side, "batch": 10, "speedup_vs_unrolled": 2.0, "speedup_vs_tesla": 2.5}
    about = {"device": "A", "processor": "AVX2", "threads": 2, "network": step_tables.network(32, 16)}
    assert step_tables.committed(about, [row], tmp_path).startswith("No table of this kind is committed (AVX2, ConvNet")
    for name, kind, value in (("a", "AVX512", 7.0), ("b", "AVX2", 1.75)):
        there = {"about": {**about, "processor": kind}, "rows": [{**row, "speedup_vs_unrolled": value}]}
        (tmp_path / f"outer_step-{name}.json").write_text(json.dumps(there))
    found = step_tables.committed(about, [row, {**row, "batch": 100}], tmp_path)
    assert found.startswith("Beside outer_step-b.json (A, threads 2):")
    (line,) = found.splitlines()[4:]  # of batch 10 alone, which that table has
    assert [word.strip() for word in line.split("|")[5:10]] == ["10", "2", "1.75", "2.5", "2.5"]


def test_every_case_has_both_references_and_every_engine_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer_step, "has_bfloat16", lambda: False)
    assert {s.precision for s in outer_step.sides(CPU, Case(100, 30, 10, 30, 5), False)} == {"float32"}
    assert "compiled" not in {s.engine for s in outer_step.sides(CPU, Case(10, 1, 1, 1, 1), True)}
    monkeypatch.setattr(outer_step, "has_bfloat16", lambda: True)
    sides = outer_step.sides(CPU, Case(100, 30, 10, 30, 5), quick=False)
    assert sides[:2] == [UNROLLED, TESLA]
    assert len(set(sides)) == len(sides)
    assert {s.engine for s in sides} == {"eager", "fused", "compiled"}
    assert {s.precision for s in sides} == {"float32", "bf16-sweep", "bf16"}
    assert {s.estimator for s in sides} == {"adjoint", "truncated", "random-window", "tesla", "unrolled"}
    assert any(s.micro_batch for s in sides)
    assert "tf32" in {s.precision for s in outer_step.sides(torch.device("cuda"), Case(10, 1, 1, 1, 1), False)}
    few = outer_step.sides(torch.device("cuda"), Case(10, 1, 1, 1, 1), False, few=True)
    assert few == [UNROLLED, TESLA, Side("adjoint"), Side("adjoint", "compiled"), Side("truncated", "compiled")]


def test_a_side_that_does_not_fit_into_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, segment = small_segment(tmp_path)
    made = outer_step.step

    def step(case: Case, side: Side, *rest: Any) -> Any:
        def too_large() -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return too_large if side == UNROLLED else made(case, side, *rest)

    monkeypatch.setattr(outer_step, "step", step)
    monkeypatch.setattr(measure, "in_fresh_process", lambda module, about: 7.0)
    (row,) = outer_step.run_case(case, [UNROLLED, Side("adjoint")], segment, CPU, 1)
    assert row["estimator"] == "adjoint"
    assert row["speedup_vs_unrolled"] is None
    pictures.speedups([row], tmp_path / "p.png")
    assert "| -" in step_tables.text({}, [row])


@pytest.mark.parametrize("K", [2, 3])
def test_segments_together_are_those_one_by_one(K: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--engine", "eager", "--segments", K, "--batch", 4, "--inner-steps", 2, "--width", 4, "--rounds", 1]
    segments.main([*map(str, words), "--threads", "1", "--json", str(tmp_path / "s.json")])
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["how"] for row in rows] == ["one by one", "together"]
    assert rows[1]["difference"] < 1e-4
    assert "together" in capsys.readouterr().out


def test_errors_by_hand() -> None:
    relative, cosine = outer_step.errors(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0], dtype=torch.float64))
    assert relative == pytest.approx(4 / 3)
    assert cosine == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("limit", "once", "taken"), [(None, 1e9, 3), (45.0, 10.0, 3), (45.0, 20.0, 2), (45.0, 1e3, 1), (45.0, 0.0, 3)]
)
def test_a_quick_case_takes_the_rounds_that_fit(limit: float | None, once: float, taken: int) -> None:
    assert outer_step.rounds_within(limit, 3, once) == taken


def small_segment(folder: Path) -> tuple[Case, Path]:
    """A small case, and the file of a segment for it."""
    source = torch.Generator().manual_seed(0)
    _, theta = build(lambda: convnet((3, 32, 32), 10, 3, 4), 0)
    found = Segment(torch.randn(4, 3, 32, 32, generator=source), torch.arange(4), theta, 1.1 * theta)
    save_tensors(folder / "s.safetensors", found._asdict(), {})
    return Case(4, 6, 3, 5, 2, width=4), folder / "s.safetensors"


def test_a_case_has_the_promised_fields_and_small_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, segment = small_segment(tmp_path)
    probed: list[dict[str, object]] = []
    monkeypatch.setattr(measure, "in_fresh_process", lambda module, about: probed.append(about) or 7.0)
    sides = [UNROLLED, TESLA, Side("adjoint", "fused"), Side("adjoint", "fused", micro_batch=3), Side("truncated")]
    rows = outer_step.run_case(case, sides, segment, CPU, 1)
    assert all(set(FIELDS.split()) <= set(row) for row in rows)
    by = {(row["estimator"], row["engine"], row["micro_batch"]): row for row in rows}
    for key in (("unrolled", "eager", None), ("adjoint", "fused", None), ("adjoint", "fused", 3)):
        assert by[key]["relative_error"] < 1e-4
        assert by[key]["cosine"] > 1 - 1e-6
    for key in (("tesla", "eager", None), ("truncated", "eager", None)):
        assert by[key]["relative_error"] > 1e-3
    assert by["unrolled", "eager", None]["speedup_vs_unrolled"] == 1.0
    assert by["tesla", "eager", None]["speedup_vs_tesla"] == 1.0
    assert {about["steps"] for about in probed} == {5}
    assert Side(**probed[3]["side"]) == sides[3]  # type: ignore[arg-type]
    text = step_tables.text({"device": "x"}, rows)
    assert text.startswith("device x\n\n**batch 4, T 6**: seconds and errors of 3 steps, memory of 5")
    pictures.speedups(rows, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_summary_by_hand() -> None:
    base = {"name": "mtt", "ipc": 1, "seconds": 60.0, "steps": 9, "peak_memory_mb": 5.0, "step_size": 0.1}
    results = [
        {**base, "accuracy": [0.4, 0.6], "equal_accuracy": [0.3, 0.3], "equal_steps": 7},
        {**base, "accuracy": [0.5, 0.7], "equal_accuracy": [0.5, 0.5], "equal_steps": 7},
    ]
    (row,) = summary.summarise(results)
    assert row["accuracy"] == pytest.approx(55.0)
    assert row["std"] == pytest.approx(100 * 0.0125**0.5)
    assert row["standard_error"] == pytest.approx(5.0)  # of the means 50 and 60
    assert (row["n"], row["equal_accuracy"], row["equal_steps"]) == ("2 x 2", pytest.approx(40.0), 7)
    (row,) = summary.summarise([results[0], {**results[1], "accuracy": [0.5, 0.7, 0.6]}])
    assert row["n"] == "2 x 2-3", "one was scored by more networks"


def test_cases_are_written_as_they_are_read() -> None:
    assert Case(**json.loads(json.dumps(asdict(Case(10, 50, 8, 50, 5))))) == Case(10, 50, 8, 50, 5)


def test_tables_of_a_folder_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def written(name: str, value: object) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))

    for folder, method, ipc, value in (
        ("16px-ipc1", "mtt", 1, 30.0),
        ("16px-ipc10", "mtt", 10, 45.0),
        ("16px-ipc1-baselines", "dm", 1, 20.0),
    ):
        row = {"name": method, "ipc": ipc, "accuracy": value, "standard_error": 0.5, "n": "3 x 3", "steps": 9}
        written(f"{folder}/comparison.json", {"rows": [{**row, "seconds": 180.0}]})
    score = {"mean": 0.25, "std": 0.01, "n": 3}
    written("16px-ipc1/mtt-ipc1-seed0/transfer.json", {"networks": {"convnet": {"learned": score},
        "vit": {"learned": {**score, "mean": 0.1}, "tuned": score}}})  # fmt: skip
    ranked = {
        "accuracy": dict.fromkeys(("any", "hard", "random"), score),
        "hlr": 0.3,
        "ior": 0.1,
        "lrs": 0.2,
        "ars": 0.3,
    }
    written("16px-ipc1-baselines/dm-ipc1-seed0/ranking.json", ranked)
    written("16px-ipc10-baselines/mdc-ipc10-seed0/sizes.json", {"sizes": {"1": score, "10": {**score, "mean": 0.5}}})
    written("16px-sizes/dsa-ipc2-seed0/test.json", {"ipc": 2, "accuracy": [0.3, 0.4]})
    agreement = {"spearman": 0.5, "kendall": 0.4, "chosen": "a", "regret": 0.01}
    written("16px-ipc10/mtt-ipc10-seed0/search.json", {"agreement": {"set": agreement, "random": agreement}})
    assert tables.main([str(tmp_path), "--json", str(tmp_path / "all.json")]) == 0
    found = json.loads((tmp_path / "all.json").read_text())
    assert [(r["method"], r["accuracy 1"], r.get("accuracy 10")) for r in found["in_domain"]] == [
        ("dm", 20.0, None),
        ("mtt", 30.0, 45.0),
    ]
    assert found["transfer"][0]["vit"] == "25.0 ± 1.0"
    assert found["transfer"][0]["vit at the learned step size"] == "10.0"
    assert found["ranking"][0]["hlr"] == pytest.approx(30)
    assert found["sizes"] == [
        {"set": "parts of mdc", "1": 25.0, "10": 50.0},
        {"set": "dsa, each size by itself", "2": pytest.approx(35)},
    ]
    assert [row["ranked by"] for row in found["search"]] == ["mtt", "as many random images"]
    assert "**in domain**" in capsys.readouterr().out


def test_tables_of_what_is_no_folder_of_the_scripts_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, part, record = tmp_path / "empty", tmp_path / "part", tmp_path / "all.json"
    empty.mkdir()
    (empty / "16px-ipc1-baselines.txt.new").touch()  # all that a refused part leaves
    (part / "continual").mkdir(parents=True)
    for folder, why in ((tmp_path / "nowhere", "is no folder"), (empty, "holds nothing of")):
        assert tables.main([str(folder), "--json", str(record)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert f"FOLDER is '{folder}', which {why}" in said.err
        assert not record.exists()
    assert tables.main([str(part), "--json", str(record)]) == 0, "a stream alone has no table here"


@pytest.mark.parametrize("text", ['{"rows": [{"name": "mtt", "ipc": 1', '{"about": {}}', "[]"])
def test_tables_name_a_damaged_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "16px-ipc1" / "comparison.json"
    path.parent.mkdir()
    path.write_text(text)
    assert tables.main([str(tmp_path), "--json", str(tmp_path / "all.json")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert not (tmp_path / "all.json").exists()
