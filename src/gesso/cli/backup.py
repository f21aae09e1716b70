"""`gesso backup`: copies of a server's queue and pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.errors import GessoError, in_words, one_line
from gesso.extras import missing_extra
from gesso.serving.settings import ServeSettings, read_settings
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.settings import user_file

if TYPE_CHECKING:
    from gesso.serving.backup import Backup

app = App()

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the server.", show_default="as `gesso serve` has it"),
]


@app.callback()
def backup() -> None:
    """Back up a server, also while it works, and restore it.

    The server's settings say where its database and its pictures are. docs/deploy.md describes it all.

    Examples:
        gesso backup make /mnt/backup
        gesso backup restore /mnt/backup --home /srv/gesso
    """


@app.command("make")
def make(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; an older backup there is brought on.")],
    with_secret: Annotated[
        bool, typer.Option("--with-secret", help="Copy the secret of the API keys, too. Keep it apart otherwise.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the queue as it is at one moment, and the pictures that it names.

    The second backup into a folder copies only what is new. PostgreSQL is dumped by pg_dump, which has to be there.

    Examples:
        gesso backup make /mnt/backup
        gesso backup make /mnt/backup --with-secret
        gesso backup make /mnt/backup --home /srv/gesso
        gesso backup make /mnt/backup --json
    """
    settings = _settings(home)
    with _as_options():
        from gesso.serving.backup import back_up

        _tell(back_up(settings, folder, with_secret=with_secret), as_json, "backed up")


@app.command("restore")
def restore_backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a backup where `gesso serve` will find it. Nothing that is there is replaced.

    A backup of an older gesso is brought up to date; what was being drawn waits in the queue again.

    Examples:
        gesso backup restore /mnt/backup
        gesso backup restore /mnt/backup --home /srv/gesso
    """
    settings = _settings(home)
    with _as_options():
        from gesso.serving.backup import restore

        _tell(restore(folder, settings), as_json, "restored")


@contextmanager
def _as_options() -> Iterator[None]:
    """Errors of the block speak of options. Raises GessoError where the server's packages are missing."""
    try:
        yield
    except GessoError as error:
        error.message = in_words(error.message, lambda name, value: f"--{name}" if name == "home" else None)
        raise
    except ImportError as error:
        raise missing_extra("`gesso backup`", f"the package {error.name}", "serve", error) from None


def _settings(home: Path | None) -> ServeSettings:
    return read_settings({"home": home}, file=user_file()).values


def _tell(done: "Backup", as_json: bool, word: str) -> None:
    values: dict[str, Any] = {
        "folder": str(done.folder),
        "jobs": done.jobs,
        "pictures": done.pictures,
        "copied": done.copied,
        "deleted": done.deleted,
        "damaged": list(done.damaged),
    }
    if as_json:
        print(json_line(values))
        return
    print(one_line(f"{done.folder}: {done.jobs} jobs and {done.pictures} pictures {word}, {done.copied} copied"))
    if done.deleted:
        print(f"{done.deleted} pictures were deleted meanwhile, and are left out")
    for digest in done.damaged:
        print(f"damaged, and left out: {digest}")
