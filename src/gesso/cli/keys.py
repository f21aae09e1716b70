"""`gesso keys`: the API keys of a server."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.errors import GessoError, one_line
from gesso.extras import missing_extra
from gesso.serving.settings import read_settings
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.settings import user_file
from gesso.terminal.tables import columns

if TYPE_CHECKING:
    from gesso.serving.keys import ApiKey, KeyStore

DAY = 86_400
app = App()

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the server.", show_default="as `gesso serve` has it"),
]


@app.callback()
def keys() -> None:
    """Make, list and revoke API keys of a server.

    The server sees a change at once, whether it runs or not.

    Examples:
        gesso keys add anna
        gesso keys list
        gesso keys revoke anna
    """


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what it is for.")],
    scopes: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="What it may: read, draw, admin; repeat it for several. admin is everything, also of others.",
            show_default="read and draw",
        ),
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option("--max-queue", min=1, max=10**6, help="Jobs that may wait.", show_default="the server's limit"),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(
            "--rate",
            min=1,
            max=10**6,
            help="Requests a minute; a sixth may come at once.",
            show_default="the server's limit",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0.001, max=36500, help="Days that it is valid.", show_default="for ever"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it. It is shown this once: the server keeps a hash alone.

    From the first key on, every request needs one, also from this machine.

    Examples:
        gesso keys add anna
        gesso keys add dashboard --scope read
        gesso keys add bot --max-queue 5 --rate 60
        gesso keys add me --scope admin --days 90
    """
    from gesso.serving.keys import DEFAULT_SCOPES

    expires = None if days is None else time.time() + days * DAY
    with _store(home) as store:
        key, text = store.add(name, scopes or DEFAULT_SCOPES, max_queue=max_queue, rate=rate, expires_at=expires)
    print(json_line({**_values(key), "key": text}) if as_json else text)


@app.command("list")
def list_keys(
    everything: Annotated[bool, typer.Option("--all", help="Show revoked and expired keys, too.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys.

    Examples:
        gesso keys list
        gesso keys list --all --json
    """
    with _store(home) as store:
        keys = [key for key in store.list() if everything or key.is_valid(time.time())]
    if as_json:
        print(json_line([_values(key) for key in keys]))
        return
    if not keys:
        print("there are no keys. Make one: gesso keys add NAME")
        return
    head = ("KEY", "NAME", "SCOPES", "QUEUE", "RATE", "MADE", "STATE")
    rows = [
        (
            key.prefix,
            one_line(key.name),
            ", ".join(key.scopes),
            str(key.max_queue or "-"),
            str(key.rate or "-"),
            _day(key.created_at) or "",
            _state(key),
        )
        for key in keys
    ]
    print("\n".join(columns([head, *rows])))


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="KEY", help="Beginning of the key as the list shows it, or its name.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key. Its jobs and pictures stay.

    Examples:
        gesso keys revoke anna
        gesso keys revoke gesso_k3v9m2x7qa
    """
    with _store(home) as store:
        key = store.revoke(name)
    print(json_line(_values(key)) if as_json else one_line(f"{key.prefix} ({key.name}) is revoked"))


@contextmanager
def _store(home: Path | None) -> "Iterator[KeyStore]":
    """The keys of the server whose settings are in effect. Raises GessoError."""
    settings = read_settings({"home": home}, file=user_file()).values
    try:
        from gesso.serving.database import Database
        from gesso.serving.keys import KeyStore
    except ImportError as error:
        raise missing_extra("`gesso keys`", f"the package {error.name}", "serve", error) from None
    try:
        settings.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise GessoError(f"{settings.folder}: cannot be made ({error.strerror})", code="unwritable") from error
    database = Database(settings.database_url)
    try:
        yield KeyStore(database, settings.folder)
    finally:
        database.close()


def _values(key: "ApiKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "scopes": list(key.scopes),
        "max_queue": key.max_queue,
        "rate": key.rate,
        "created": _day(key.created_at),
        "expires": _day(key.expires_at),
        "revoked": _day(key.revoked_at),
        "valid": key.is_valid(time.time()),
    }


def _day(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _state(key: "ApiKey") -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not key.is_valid(time.time()):
        return "expired"
    return "valid" if key.expires_at is None else f"valid until {_day(key.expires_at)}"
