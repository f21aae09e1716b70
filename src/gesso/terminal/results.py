"""Options for results: how their paths are printed, and whether they are shown at once."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.errors import one_line

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
    try:
        return typer.launch(os.path.abspath(path)) == 0
    except OSError:
        return False


def _has_screen(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> bool:
    """Whether there is a display; without one, xdg-open may start a text browser in the terminal."""
    return platform in ("win32", "darwin") or any(environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
