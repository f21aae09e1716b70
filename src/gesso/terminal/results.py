"""Options for results: how their paths are printed, and whether they are shown at once."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.errors import one_line

VIEWER_SECONDS = 2.0  # in which a viewer that cannot show a file says so
AbsolutePathsOption = Annotated[bool, typer.Option("--absolute-paths", help="Print absolute paths.")]
OpenOption = Annotated[
    bool, typer.Option("--open", help="Open the result in the system's viewer; of several, their folder.")
]


def shown(path: Path, *, absolute: bool) -> str:
    """A path on a line of output."""
    return one_line(_text(path, absolute))


def path_values(path: Path, *, absolute: bool) -> dict[str, Any]:
    """A path in JSON: as text has it, and absolute."""
    return {"path": _text(path, absolute), "absolute_path": _text(path, True)}


def _text(path: Path, absolute: bool) -> str:
    return os.path.abspath(path) if absolute else str(path)


def open_results(paths: Sequence[Path], note: Callable[[str], object]) -> None:
    """Show a file in the system's viewer; of several files, their folder. What cannot be shown is a note."""
    if not paths:
        return
    path = paths[0] if len(paths) == 1 else paths[0].parent
    if not _has_screen() or not _launched(path):
        note(f"note: --open: nothing here shows pictures (no display, or no viewer); see {path}")


def _launched(path: Path) -> bool:
    """Start the viewer, which goes on when gesso ends and prints nothing between gesso's results.

    One that fails does so at once. One that is still there after a moment shows the picture, and is not waited for.
    """
    import subprocess

    shown = os.path.abspath(path)
    try:
        if sys.platform == "win32":
            os.startfile(shown)
            return True
        command = _viewer()
        if command is None:
            return False
        nowhere = subprocess.DEVNULL
        viewer = subprocess.Popen(
            [*command, shown], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
    except OSError:
        return False
    try:
        return viewer.wait(VIEWER_SECONDS) == 0
    except subprocess.TimeoutExpired:
        viewer.returncode = 0  # it is left to the system: Python would complain of one that runs on
        return True


def _viewer(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Sequence[str] | None:
    """The command that shows a file in the program that the user has chosen for its kind."""
    if platform == "darwin":
        return ("open",)
    commands: list[tuple[str, ...]] = [("xdg-open",), ("gio", "open")]
    if "WSL_DISTRO_NAME" in environ:
        commands.insert(0, ("wslview",))  # the viewer of Windows
    return next((command for command in commands if shutil.which(command[0], path=environ.get("PATH"))), None)


def _has_screen(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether there is a display; without one, xdg-open may start a text browser in the terminal."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    return platform in ("win32", "darwin") or any(environ.get(name) for name in displays)
