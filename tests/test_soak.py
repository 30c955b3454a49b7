"""The soak, in small: its whole is `python -m benchmarks.soak`."""

from pathlib import Path

import pytest

from benchmarks import soak
from trajmatch.run import cli


@pytest.mark.slow
def test_killed_and_interrupted_runs_go_on_to_the_same_bits(tmp_path: Path) -> None:
    records = soak.soak(tmp_path, kills=3, signals=6, seed=7)
    assert not [record for record in records if record["wrong"]], "\n".join(soak.table(records))


def test_a_trial_is_a_function_of_its_number_and_more_of_them_change_none() -> None:
    few, many = soak.trials(2, 2, seed=3), soak.trials(5, 4, seed=3)
    assert {trial.name: trial for trial in few}.items() <= {trial.name: trial for trial in many}.items()
    assert {trial.number for trial in many} == {"SIGKILL", *soak.SIGNALS}


def test_what_is_lost_or_left_behind_is_seen(tmp_path: Path) -> None:
    assert soak.lost(130, "To go on: trajmatch run digits-ipc1 --resume", tmp_path, False) == []
    assert soak.lost(130, "", tmp_path, False)
    assert soak.lost(0, "", tmp_path, False) == ["exit 0, for the signal was lost"]
    assert not soak.lost(0, "", tmp_path, True)
    assert soak.lost(1, "Traceback", tmp_path, False)
    assert soak.lost(-15, "", tmp_path, False)
    assert not soak.lost(-15, "", tmp_path / "none", False)


def test_what_ends_before_the_program_is_there_is_told_from_what_the_program_says(tmp_path: Path) -> None:
    none, python, ours = tmp_path / "none", 'File "<frozen os>", line 29', f'File "{cli.__file__}", line 2'
    for code, said in ((-15, ""), (-2, f"{python}\nKeyboardInterrupt"), (1, f"{python}\nKeyboardInterrupt")):
        assert soak.ending(code, said, none) == soak.NO_HANDLER
        assert soak.ending(code, said, tmp_path) != soak.NO_HANDLER
    assert soak.ending(-2, f"{python}\n{ours}\nKeyboardInterrupt", none) == "SIGINT"
    assert soak.ending(1, "no KeyboardInt", none) == "exit 1"
