"""Progress and notices on stderr, results on stdout."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gesso.errors import one_line
from gesso.studio.events import Event, FinalSize, Loading, Noticed, Sampling
from gesso.terminal.words import in_options

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task

BAR_WIDTH = 20  # characters, so that text, numbers and times beside it fit into 80


class Bar:
    """One progress bar for a whole run, which comes and goes with the work. Use as a context manager.

    On a terminal alone: a pipe or a file gets notices and nothing else.
    quiet: nothing on stderr
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._parts: dict[int, tuple[int, int]] = {}  # number of a part -> done, of

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hide()

    def stage(self, text: str) -> None:
        """Show what is being done, without a percentage."""
        self._show(text, None, 0, "")

    def step(self, text: str, done: int, total: int, unit: str = "") -> None:
        """`done` of `total`, which are units such as steps; "" shows the share."""
        self._show(text, total, done, unit)

    def part(self, text: str, number: int, parts: int, done: int, of: int, unit: str = "") -> None:
        """`done` of the `of` units of one of several parts: the bar shows all of them.

        number  of the part, from 1; earlier ones that were never shown were done before
        Parts whose length is not known yet count as long as this one.
        """
        self._parts[number] = done, of
        known, before = len(self._parts), max(self._parts) - len(self._parts)
        total = sum(each for _, each in self._parts.values()) + (parts - known - before) * of
        self._show(text, total, sum(each for each, _ in self._parts.values()), unit)

    def show(self, event: Event) -> None:
        """What the studio reports."""
        match event:
            case Loading():
                self.stage(f"loading {event.model}")
            case FinalSize():
                self.note(f"final size: {event.width}x{event.height}")
            case Sampling():
                state = event.progress
                self.part(_picture(event), event.number, event.total, state.step, state.num_steps, "steps")
            case Noticed():
                self.note(f"note: {f'{event.about}: ' if event.about else ''}{event.notice}")

    def note(self, text: str) -> None:
        """A line for the user on stderr, above the bar."""
        if self.quiet:
            return
        self._hide()
        print(in_options(one_line(text)), file=sys.stderr)  # it may repeat a prompt: no control character goes out

    def result(self, line: str) -> None:
        """A line on stdout, at once."""
        self._hide()
        print(line, flush=True)

    def _show(self, text: str, total: int | None, done: int, unit: str) -> None:
        if self.quiet or not sys.stderr.isatty():
            return
        if self._bar is None:
            self._open()
        assert self._bar is not None
        self._bar.update(self._task, description=text, total=total, completed=done, unit=unit)
        self._bar.start()  # again, after a line has been printed

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        class Numbers(ProgressColumn):
            """How much is done, the time that it took and takes, and how fast it goes."""

            def render(self, task: "Task") -> Text:
                return Text(numbers(task), style="progress.elapsed")

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            Numbers(),
            console=Console(stderr=True),
            redirect_stdout=False,  # results go where the user sent them
            redirect_stderr=False,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, unit="")

    def _hide(self) -> None:
        """Take the bar off the screen; what it counts stays."""
        if self._bar is not None:
            self._bar.stop()


def numbers(task: "Task") -> str:
    """ "12/80, 0:03, 0:17 left, 3.9 steps/s", as far as it is known."""
    unit = task.fields["unit"]
    parts = []
    if task.total:
        parts.append(f"{int(task.completed)}/{int(task.total)}" if unit else f"{task.percentage:.0f}%")
    if task.elapsed is not None:
        parts.append(_clock(task.elapsed))
    if task.total and task.time_remaining is not None and not task.finished:
        parts.append(f"{_clock(task.time_remaining)} left")
    if unit and task.speed:
        parts.append(f"{task.speed:.3g} {unit}/s")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    """ "0:07", "12:30", "1:02:30"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _picture(event: Sampling) -> str:
    """Which picture is being drawn."""
    return "drawing" if event.total == 1 else f"picture {event.number} of {event.total}"
