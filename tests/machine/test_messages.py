"""Who hears the package's logger, on stderr and in a program's own handlers, and where a bar is shown."""

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import ModuleType, SimpleNamespace

import pytest

import trajmatch
from trajmatch.machine import progress
from trajmatch.machine.messages import LOGGER, heard, hushed
from trajmatch.machine.progress import Meter

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Fails a test after which the logger is not as it was."""
    before = LOGGER.level, list(LOGGER.handlers)
    yield
    assert (LOGGER.level, list(LOGGER.handlers)) == before


def said(*blocks: AbstractContextManager[None]) -> None:
    """A line and a warning within blocks."""
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        LOGGER.info("a 100% line")
        LOGGER.warning("a warning")


def test_what_is_heard_on_stderr(capsys: Captured) -> None:
    said(heard())
    assert capsys.readouterr().err == "a 100% line\na warning\n"
    said(heard(), hushed())
    assert capsys.readouterr().err == "a warning\n"
    for blocks in ([heard(quiet=True)], [heard(), heard(quiet=True)], [heard(quiet=True), hushed()]):
        said(*blocks)
        assert capsys.readouterr().err == ""


def test_the_logger_is_as_it_was_after_an_error() -> None:
    with pytest.raises(KeyError), heard(), hushed():
        raise KeyError


def distilled(quiet: bool) -> None:
    """A call from Python that is refused after a line of what was read."""
    with pytest.raises(ValueError, match="--ipc is 1000"):
        trajmatch.distill("digits", ipc=1000, quiet=quiet)


def test_a_program_with_handlers_has_the_messages_in_them_alone(
    caplog: pytest.LogCaptureFixture, capsys: Captured
) -> None:
    distilled(quiet=True)
    assert not caplog.records
    distilled(quiet=False)
    assert [(one.name, one.levelname, one.message[:12]) for one in caplog.records] == [
        ("trajmatch", "INFO", "read digits:")
    ]
    assert capsys.readouterr().err == ""


def test_a_program_without_handlers_has_them_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    distilled(quiet=True)
    assert capsys.readouterr().err == ""
    distilled(quiet=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("read digits: 10 classes")


def counted(*blocks: AbstractContextManager[None]) -> bool:
    """Two units of a meter within blocks; whether a bar was shown."""
    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(block)
        with Meter("distill", 2) as meter:
            meter.advance("loss 1")
            meter.advance("loss 2")
        return meter.bar is not None


def test_a_bar_below_a_notebook_s_cell(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    drawn: list[str] = []
    handle = SimpleNamespace(update=drawn.append)

    def display(html: str, display_id: bool) -> SimpleNamespace:
        assert display_id
        drawn.append(html)
        return handle

    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=str, display=display))
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_PICTURES", -1.0)
    with heard(), Meter("a <b>", 2) as meter:
        meter.advance("loss 1")
        meter.advance("loss 2")
    assert capsys.readouterr().err == ""
    assert [bar.split(" max")[0] for bar in drawn] == [f'<progress value="{done}"' for done in (0, 1, 2, 2)]
    assert "<code>a &lt;b&gt;: 1/2 steps" in drawn[1]
    assert "loss 2" in drawn[2]
    drawn.clear()
    with heard(quiet=True), Meter("distill", 2) as meter:
        meter.advance()
    assert drawn == []


def test_lines_of_progress_are_messages(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: Captured
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    assert not counted(heard())
    lines = capsys.readouterr().err.splitlines()
    assert lines == caplog.messages
    assert [line.split(",")[0] for line in lines] == [f"distill: {done}/2 steps" for done in (1, 2, 2)]
    for blocks in ([nullcontext()], [heard(quiet=True)], [heard(), hushed()]):
        assert not counted(*blocks)
    assert capsys.readouterr().err == ""
    with caplog.at_level(logging.INFO, "trajmatch"):  # as a program that is interested in what it calls
        assert not counted()
    assert caplog.messages[len(lines) :]
    assert capsys.readouterr().err == ""


def test_a_meter_shows_where_the_parts_of_its_unit_are(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def stream() -> None:
        with Meter("order 1 of 2", 4, unit="class steps") as whole:
            whole.skip(1)
            for _ in range(2):
                with whole.parts(), Meter("distill", 2) as part:
                    now[0] += 30
                    part.advance("loss 1")
                    LOGGER.info("of no interest by itself")
                whole.advance()
            assert part.bar is None

    with heard():
        stream()
        assert counted() is False
    lines = capsys.readouterr().err.splitlines()
    assert lines[:4] == [
        "order 1 of 2: 1/4 class steps, distill 1/2",
        "order 1 of 2: 2/4 class steps, 30.0 s/class step, 1:00 min left",
        "order 1 of 2: 2/4 class steps, 30.0 s/class step, distill 1/2, 30 s left",
        "order 1 of 2: 3/4 class steps, 30.0 s/class step, 30 s left",
    ]
    assert lines[5].startswith("distill: 1/2 steps"), "after it others are shown again"
    for blocks in (heard(quiet=True), nullcontext()):
        with blocks:
            stream()
    assert capsys.readouterr().err == ""


def test_a_bar_is_shown_where_its_terminal_hears(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # takes stderr for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert counted(heard())
    assert "loss 2" in capsys.readouterr().err
    for blocks in ([nullcontext()], [heard(quiet=True)], [heard(), hushed()]):
        assert not counted(*blocks)
    assert capsys.readouterr().err == ""


def test_a_message_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with heard(), Meter("distill", 2):
        LOGGER.warning("a file is damaged")
    # The bar's line is cleared for it, and the bar drawn again below.
    assert "\r\x1b[2Ka file is damaged\n" in capsys.readouterr().err
