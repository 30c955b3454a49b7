"""Progress with rate, details and time left: a live bar on terminals and in notebooks, else a line now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from trajmatch.machine import holding
from trajmatch.machine.messages import LOGGER, at_level, hushed, on_stderr

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_PICTURES = 0.2
# The meter whose unit is being done, where others count its parts.
_AROUND: "ContextVar[Meter | None]" = ContextVar("around", default=None)


class Meter:
    """Counts towards a total. `with Meter("distill", 300) as meter: meter.advance("loss 0.4")`.

    A bar is shown where the logger's messages go to a terminal or below a notebook's cell; elsewhere a line now and
    then is such a message.

    start: units that were done before and that the rate must not count.
    after: seconds in which nothing is shown, for work that is often done by then.
    """

    def __init__(self, title: str, total: int, start: int = 0, unit: str = "steps", after: float = 0.0) -> None:
        self.title, self.total, self.start, self.unit, self.after = title, total, start, unit, after
        self.done, self.began = start, time.monotonic()
        self.counted, self.level, self.around = self.began, LOGGER.getEffectiveLevel(), _AROUND.get()
        # The first line comes when `after` has passed, and without it as late as the others.
        self.said = self.began - (SECONDS_BETWEEN_LINES - after if after else 0.0)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.inline: Inline | None = None

    def __enter__(self) -> "Meter":
        if not self.after and self.around is None:
            self._show()
        return self

    @contextmanager
    def parts(self) -> Iterator[None]:
        """Within the block, which does a unit, other meters show nothing: this one shows where they are.

        No more than warnings are heard of the rest.
        """
        before = _AROUND.set(self)
        try:
            with hushed():
                yield
        finally:
            _AROUND.reset(before)

    def _show(self) -> None:
        """Show a bar, where that is possible."""
        console = Console(stderr=True)
        if console.is_jupyter and on_stderr():
            self.inline = Inline(self.title, self.total)
        elif console.is_terminal and on_stderr():
            columns = (
                TextColumn("{task.description:<9}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[details]}"),
            )
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(self.title, total=self.total, completed=self.start, rate="", details="")
            self.bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.around is not None:
            return
        if self.inline is not None:
            self.inline.show(self.done, self._words(""))
        elif self.bar is not None:
            self.bar.stop()
        elif self.done > self.start and not self._is_early():
            self._say("")

    def advance(self, details: str = "", count: int = 1) -> None:
        """Count `count` more units and show `details` beside them. Raises an interrupt that came and was swallowed."""
        holding.check()
        self.done += count
        if count:
            self.counted = time.monotonic()
        if self.around is not None:
            self.around.advance(f"{self.title} {self.done}/{self.total}", count=0)
            return
        if self._is_early():
            return
        if self.after and self.task is None:
            self._show()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done, rate=self.rate(), details=details)
        elif self.inline is not None:
            if time.monotonic() - self.said > SECONDS_BETWEEN_PICTURES:
                self.inline.show(self.done, self._words(details))
        elif time.monotonic() - self.said > SECONDS_BETWEEN_LINES:
            self._say(details)

    def skip(self, count: int) -> None:
        """Count `count` units that were done before, and that the rate must not count."""
        self.start += count
        self.done += count

    def _is_early(self) -> bool:
        """Whether nothing is to be shown yet."""
        return bool(self.after) and time.monotonic() - self.began < self.after

    def rate(self) -> str:
        """Units per second or seconds per unit since the start, in words."""
        passed, count = self.counted - self.began, self.done - self.start
        if not count or not passed:
            return ""
        singular = self.unit.removesuffix("s")
        return f"{count / passed:.1f} {self.unit}/s" if count > passed else f"{passed / count:.1f} s/{singular}"

    def _say(self, details: str) -> None:
        with at_level(self.level):  # also while its parts are hushed
            LOGGER.info(self._words(details))

    def _words(self, details: str) -> str:
        """What is said now."""
        self.said, count = time.monotonic(), self.done - self.start
        ending = f"took {duration(self.said - self.began)}"
        if self.done < self.total:  # what has passed since the last unit is part of the next
            left = (self.total - self.done) * (self.counted - self.began) / max(1, count) - (self.said - self.counted)
            ending = f"{duration(max(0.0, left))} left" if count else ""
        words = [f"{self.title}: {self.done}/{self.total} {self.unit}", self.rate(), details, ending]
        return ", ".join(word for word in words if word)


class Inline:
    """A bar below a notebook's cell. It is plain HTML, which needs no widgets, in any program that shows notebooks."""

    def __init__(self, title: str, total: int) -> None:
        from IPython.display import HTML, display

        self.title, self.total, self.made = title, total, HTML
        self.handle = display(HTML(self._html(0, title)), display_id=True)

    def show(self, done: int, words: str) -> None:
        """Draw the bar at `done` units with words beside it."""
        self.handle.update(self.made(self._html(done, words)))

    def _html(self, done: int, words: str) -> str:
        return f'<progress value="{done}" max="{self.total}"></progress> <code>{escape(words)}</code>'


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3:07 min or 2:05 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
