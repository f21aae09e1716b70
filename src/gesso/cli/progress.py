"""Progress and notices on stderr, results on stdout."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gesso.cli.words import in_options
from gesso.errors import one_line
from gesso.studio.events import Event, FinalSize, Loading, Noticed, Sampling

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Bar:
    """A progress bar that comes and goes with the work. Use as a context manager.

    quiet: nothing on stderr. keep: the full bar stays on the screen when a picture is finished.
    """

    def __init__(self, *, quiet: bool, keep: bool = True) -> None:
        self.quiet, self.keep = quiet, keep
        self._bar: RichProgress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(keep=False)

    def stage(self, text: str) -> None:
        """Show what is being done, without a percentage."""
        self._show(text, None, 0)

    def step(self, text: str, done: int, total: int) -> None:
        """`done` of `total` steps."""
        self._show(text, total, done)

    def show(self, event: Event) -> None:
        """What the studio reports."""
        match event:
            case Loading():
                self.stage(f"loading {event.model}")
            case FinalSize():
                self.note(f"final size: {event.width}x{event.height}")
            case Sampling():
                self.step(_picture(event), event.progress.step, event.progress.num_steps)
            case Noticed():
                self.note(f"note: {f'{event.about}: ' if event.about else ''}{event.notice}")

    def note(self, text: str) -> None:
        """A line for the user on stderr, above the bar."""
        if self.quiet:
            return
        text = in_options(one_line(text))  # it may repeat a prompt: no control character reaches the terminal
        if self._bar is not None and self._bar.console.is_terminal:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr)

    def result(self, line: str) -> None:
        """A line on stdout, at once."""
        self._close(keep=self.keep)
        print(line, flush=True)

    def _show(self, text: str, total: int | None, done: int) -> None:
        if self.quiet:
            return
        if self._bar is None:
            self._open()
        assert self._bar is not None
        self._bar.update(self._task, description=text, total=total, completed=done)

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            redirect_stdout=False,  # results go where the user sent them
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("", total=None)
        if self._bar.console.is_terminal:  # a file or a pipe gets the finished bar alone
            self._bar.start()

    def _close(self, *, keep: bool) -> None:
        if self._bar is not None:
            if self._bar.console.is_terminal:
                self._bar.live.transient = not keep
                self._bar.stop()
            elif keep:
                self._bar.console.print(self._bar.get_renderable())
            self._bar = None


def _picture(event: Sampling) -> str:
    """Which picture is being drawn."""
    return "drawing" if event.total == 1 else f"picture {event.number} of {event.total}"
