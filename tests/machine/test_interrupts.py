"""Requests to end: recorded, held back, raised again where Python swallowed them, and heeded where ignored."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import small
from trajmatch.data.files import write_text
from trajmatch.machine import holding
from trajmatch.machine.interrupts import SIGNALS, deferred, handling, listening, raise_interrupt
from trajmatch.run import cli
from trajmatch.run.ending import ended


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Every signal's handler, and the record, are as before behind a test."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    holding.forget()


NOTHING_DONE = "trajmatch: interrupted before anything was done\n"


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python calls the handler


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_is_an_interrupt(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        send(number)
        raise AssertionError("it went on")

    assert ended(["run", "digits-ipc1"], command, for_good=False) == 130
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("To go on: trajmatch run digits-ipc1 --resume\n")


def in_a_destructor() -> None:
    class Loud:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    Loud()
    gc.collect()


def in_a_library() -> None:
    with suppress(KeyboardInterrupt):
        send(signal.SIGTERM)


def as_something_else() -> None:
    try:
        send(signal.SIGTERM)
    except KeyboardInterrupt:
        raise ImportError("half a module") from None


def as_an_exit() -> None:
    try:
        send(signal.SIGTERM)
    except KeyboardInterrupt:
        raise SystemExit(2) from None


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("swallow", [in_a_destructor, in_a_library, as_something_else, as_an_exit])
def test_a_swallowed_interrupt_still_decides_the_end(
    swallow: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        swallow()
        return 0

    assert ended(["report"], command, for_good=False) == 130
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "ignored" not in said


def test_what_a_destructor_swallowed_comes_again_soon() -> None:
    def command() -> int:
        in_a_destructor()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            time.sleep(0.001)
        raise AssertionError("it went on for ten seconds")

    assert ended(["report"], command, for_good=False) == 130


def test_a_file_is_written_to_its_end_first(tmp_path: Path) -> None:
    def command() -> int:
        with holding.Held():
            send(signal.SIGTERM)
            write_text(tmp_path / "a", "whole")
        raise AssertionError("it was held for ever")

    assert ended(["report"], command, for_good=False) == 130
    assert (tmp_path / "a").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_second_signal_comes_at_once_and_one_sent_twice_is_one() -> None:
    reached = []

    def command() -> int:
        with holding.Held():
            send(signal.SIGINT)
            send(signal.SIGINT)
            reached.append("sent twice, as `timeout` does")
            time.sleep(0.15)
            send(signal.SIGTERM)
            reached.append("never")
        return 0

    assert ended(["run"], command, for_good=False) == 130
    assert reached == ["sent twice, as `timeout` does"]
    assert holding.came == [signal.SIGINT, signal.SIGTERM]


def test_an_interrupt_in_the_last_step_is_raised_behind_it() -> None:
    done = []

    def command() -> int:
        with deferred():
            send(signal.SIGTERM)
            done.append("the step")
        done.append("what follows")
        return 0

    assert ended(["run"], command, for_good=False) == 130
    assert done == ["the step"]


def test_pythons_own_calls_deliver_it_to_the_handler_before() -> None:
    came: list[int] = []

    def interrupted(number: int) -> None:
        with handling(lambda number, frame: came.append(number), signal.SIGTERM), deferred() as check:
            send(number)
            assert not came
            check()

    for number, delivered in ((signal.SIGTERM, [signal.SIGTERM]), (signal.SIGINT, [])):
        came.clear()
        with pytest.raises(KeyboardInterrupt):
            interrupted(number)
        assert came == delivered
        assert not holding.came


def failing() -> None:
    with handling(raise_interrupt, signal.SIGHUP), deferred():
        send(signal.SIGHUP)
        raise ZeroDivisionError


def test_an_error_does_not_hide_an_interrupt_from_python() -> None:
    with pytest.raises(KeyboardInterrupt):
        failing()


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert not holding.came
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_nohup_is_heeded_by_a_whole_run(tmp_path: Path) -> None:
    words = small.command("distill", "--method", "random", "--out", tmp_path / "r")
    process = subprocess.Popen(
        [sys.executable, "-m", "trajmatch", *words],
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    while not (tmp_path / "r").exists() and process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert (tmp_path / "r/distilled.safetensors").exists()


def test_an_interrupt_inside_a_text_of_code_is_an_exit_code_too(tmp_path: Path) -> None:
    inner = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(9)"
    code = f"import sys\nfrom trajmatch.run.ending import ended\nsys.exit(ended([], lambda: exec({inner!r}), True))\n"
    (tmp_path / "ended_by_a_text.py").write_text(code)
    paths = os.pathsep.join([str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-m", "ended_by_a_text"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert process.returncode == 130, process.stderr


@pytest.mark.parametrize("delay", [0.15, 0.5, 1.0])
def test_an_interrupt_of_a_process_that_starts_is_one_sentence(delay: float, tmp_path: Path) -> None:
    process = small.start(*small.command("run", "--out", tmp_path / "r"))
    time.sleep(delay)
    code, errors = small.end(process, signal.SIGTERM)
    assert code in (130, -signal.SIGTERM), errors
    assert "Traceback" not in errors
    assert code == -signal.SIGTERM or "To go on: trajmatch run" in errors or errors == NOTHING_DONE


def test_what_runs_behind_the_end_raises_no_interrupt_again(tmp_path: Path) -> None:
    inner = (
        "import atexit, signal, sys, weakref\n"
        "from trajmatch.machine.holding import Held, check\n"
        "from trajmatch.run.ending import ended\n"
        "class Owner: pass\n"
        "def let_go():\n"
        "    with Held(): print('let go')\n"
        "    check()\n"
        "def command():\n"
        "    global owner\n"
        "    owner = Owner()\n"
        "    weakref.finalize(owner, let_go)\n"
        "    atexit.register(let_go)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "sys.exit(ended(['report'], command, for_good=True))\n"
    )
    process = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True, check=False)
    assert process.returncode == 130
    assert process.stdout == "let go\nlet go\n"
    assert process.stderr.count("\n") == 1, process.stderr


def test_an_interrupt_while_the_program_is_loaded_waits_for_the_end_of_that() -> None:
    inner = (
        "import signal, sys\n"
        "class Sends:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'trajmatch.run.cli': signal.raise_signal(signal.SIGTERM)\n"
        "        if name == 'trajmatch.run.ending': print('went on')\n"
        "sys.meta_path.insert(0, Sends())\n"
        "from trajmatch.__main__ import main\n"
        "sys.exit(main())\n"
    )
    process = subprocess.run([sys.executable, "-c", inner], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (130, "went on\n", NOTHING_DONE)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_says_what_is_kept(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(call: cli.Call) -> int:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    found = cli.VERBS[verb]
    monkeypatch.setitem(cli.VERBS, verb, found._replace(run=interrupted, base=None))
    assert cli.main([verb]) == 130
    folder = ".-continual" if verb == "continual" else "."
    said = found.kept or f"nothing is saved in {folder}, for nothing was complete"
    assert f"interrupted; {said}. To go on: trajmatch {verb}" in capsys.readouterr().err


def test_an_interrupt_while_the_report_is_written(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trajmatch.pages import report

    def interrupted(*_: object) -> str:
        in_a_library()
        return ""

    small.succeed(*small.command("distill", "--method", "random", "--out", whole.parent / "reported"))
    monkeypatch.setattr(report, "_curves", interrupted)
    flags = ("--method", "random", "--out", whole.parent / "reported")
    assert cli.main(small.command("run", *flags)) == 130
    monkeypatch.undo()
    assert cli.main(small.command("run", *flags)) == 0
