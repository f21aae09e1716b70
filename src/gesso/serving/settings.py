"""The settings of `gesso serve`, and where each comes from.

A setting is a field of `ServeSettings`: a flag of the command, GESSO_SERVE_<NAME> in the environment, or a key of the
table [serve] in gesso.toml, and the first of these counts. pydantic-settings reads and checks them; it belongs to the
extra `serve` and is imported when settings are read, so that the command line can list them without it.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from gesso.errors import GessoError, short
from gesso.extras import missing_extra
from gesso.request.checks import nearest, unknown_data
from gesso.studio.home import library_folder

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

PREFIX = "GESSO_SERVE_"
TABLE = "serve"
COMMAND_ONLY = ("show_settings", "json")  # options of the command that are no settings of the server
DAY = 86_400.0
KEEP = 7 * DAY  # of jobs, on a server that others reach
LogFormat = Literal["text", "json"]
Webhooks = Literal["off", "public", "any"]


@dataclass(frozen=True)
class About:
    """What is said of a setting besides its type.  group: in the help text; low, high: range of a number"""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    unset: str = ""  # what None means


def _about(group: str, words: str, low: float | None = None, high: float | None = None, unset: str = "") -> About:
    return About(words, group, low, high, unset)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Everything that can be set, with its default. Times are in seconds, sizes in bytes."""

    host: Annotated[str, _about("Address", "Address to listen on; 0.0.0.0 is every one of this machine.")] = "127.0.0.1"
    port: Annotated[int, _about("Address", "Port to listen on; 0 takes a free one.", 0, 65_535)] = 7860
    allowed_hosts: Annotated[
        tuple[str, ...],
        _about("Address", "Names by which clients reach the server, besides localhost and the address itself."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        _about("Address", "Addresses of proxies whose X-Forwarded-For and -Proto are believed."),
    ] = ()

    browser: Annotated[
        bool, _about("Address", "Open the page in your browser, where the server starts in a terminal with a display.")
    ] = True

    home: Annotated[
        Path | None,
        _about("Storage", "Folder of the queue, the pictures and the secret.", unset="server, beside the library"),
    ] = None
    database: Annotated[
        str | None,
        _about("Storage", "Database as a URL of SQLAlchemy.", unset="queue.sqlite3 in the folder"),
    ] = None
    pictures: Annotated[
        str | None,
        _about("Storage", "Where pictures are kept: a folder, or s3://bucket/prefix.", unset="blobs in the folder"),
    ] = None
    picture_links: Annotated[
        bool, _about("Storage", "Send clients to the object storage for pictures, by links that expire.")
    ] = False
    keep: Annotated[
        float | None,
        _about(
            "Storage",
            "How long finished jobs and their pictures are kept; with a star or on a board for ever.",
            60,
            3650 * DAY,
            "for ever on 127.0.0.1, else 604800",
        ),
    ] = None

    workers: Annotated[int, _about("Worker", "Worker processes; 0: others work on this queue.", 0, 64)] = 1
    device: Annotated[str, _about("Worker", "Device: auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    dtype: Annotated[str, _about("Worker", "Compute dtype: auto, float32, bfloat16, float16 or int8.")] = "auto"
    threads: Annotated[int | None, _about("Worker", "Number of CPU threads.", 1, 1024, "as PyTorch chooses")] = None
    memory: Annotated[
        str | None,
        _about("Worker", "Memory limit, such as 6GiB, or auto: what is free.", unset="no limit"),
    ] = None
    max_models: Annotated[int, _about("Worker", "Models that stay loaded.", 1, 64)] = 1
    batch: Annotated[int, _about("Worker", "Pictures that go through the networks together.", 1, 64)] = 1
    jobs_at_once: Annotated[
        int, _about("Worker", "Jobs that are drawn side by side, a step of each in turn.", 1, 64)
    ] = 4
    keep_alive: Annotated[
        float, _about("Worker", "Time without work after which models leave the memory; -1: never.", -1, 30 * DAY)
    ] = 300.0
    previews: Annotated[float, _about("Worker", "Time between previews of a picture; 0: none.", 0, 3600)] = 1.0
    wildcards: Annotated[
        Path | None, _about("Worker", "Folder of lists for __name__ in prompts.", unset="no folder")
    ] = None

    max_queue: Annotated[int, _about("Limits", "Unfinished jobs in all; more are refused with 429.", 1, 10**6)] = 1000
    max_queue_per_key: Annotated[int, _about("Limits", "Unfinished jobs of one key.", 1, 10**6)] = 200
    rate: Annotated[
        int, _about("Limits", "Requests a minute of one key, or of one address; a sixth may come at once.", 1, 10**6)
    ] = 1200
    max_images: Annotated[int, _about("Limits", "Pictures of one job.", 1, 1000)] = 64
    max_work: Annotated[
        float,
        _about("Limits", "Megapixels times steps times pictures of one job.", 1, 10**9),
    ] = 20_000.0
    max_body: Annotated[int, _about("Limits", "Bytes of a JSON body.", 1024, 2**26)] = 2**20
    max_upload: Annotated[int, _about("Limits", "Bytes of an uploaded picture.", 1024, 2**28)] = 2**25
    max_model: Annotated[
        int, _about("Limits", "Bytes of a model file that a client may add to the library; 0: none.", 0, 2**44)
    ] = 2**35
    max_assets: Annotated[int, _about("Limits", "Bytes of all uploads of one key.", 1024, 2**44)] = 2**31
    max_streams: Annotated[int, _about("Limits", "Event streams open at a time, in all.", 1, 100_000)] = 512
    max_connections: Annotated[int, _about("Limits", "Connections open at a time.", 8, 100_000)] = 2048
    header_timeout: Annotated[float, _about("Limits", "Time in which a request's headers must arrive.", 0.1, 600)] = (
        10.0
    )
    body_timeout: Annotated[float, _about("Limits", "Time in which a request's body must arrive.", 0.1, 3600)] = 60.0

    webhooks: Annotated[
        Webhooks,
        _about("Webhooks and logs", "Where webhooks may go: off, public addresses, or any, private ones included."),
    ] = "public"
    log_format: Annotated[
        LogFormat, _about("Webhooks and logs", "Format of the log: text, or a JSON object a line.")
    ] = "text"
    log_prompts: Annotated[bool, _about("Webhooks and logs", "Write the prompts of jobs into the log.")] = False
    traces: Annotated[
        str | None,
        _about(
            "Webhooks and logs",
            "Where OpenTelemetry traces go: a collector, such as http://127.0.0.1:4318.",
            unset="no traces",
        ),
    ] = None
    public_metrics: Annotated[
        bool, _about("Webhooks and logs", "Show /metrics without a key; else a key with the scope admin is needed.")
    ] = False

    @property
    def folder(self) -> Path:
        """Where the server keeps everything."""
        return self.home if self.home is not None else library_folder().parent / "server"

    @property
    def database_url(self) -> str:
        """The database, for SQLAlchemy."""
        return self.database or f"sqlite:///{self.folder / 'queue.sqlite3'}"

    @property
    def pictures_address(self) -> str:
        """Where pictures are kept: a folder or an URL."""
        return self.pictures or str(self.folder / "blobs")

    @property
    def keep_seconds(self) -> float | None:
        """How long finished jobs and their pictures are kept; None: for ever, as on somebody's own machine."""
        return self.keep if self.keep is not None or self.is_loopback else KEEP

    @property
    def keep_uploads(self) -> float:
        """How long uploaded pictures are kept that no job draws from."""
        return self.keep if self.keep is not None else KEEP

    @property
    def is_loopback(self) -> bool:
        """Whether nobody beyond this machine can reach the address."""
        name = self.host.strip("[]")
        try:
            return name == "localhost" or ip_address(name).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Row:
    """A setting as front ends see it.  kind: int, float, bool, str, Path or tuple, whose values are text"""

    name: str
    kind: type
    optional: bool
    choices: tuple[str, ...]
    about: About
    default: Any

    @property
    def variable(self) -> str:
        """In the environment."""
        return PREFIX + self.name.upper()


@cache
def setting_rows() -> tuple[Row, ...]:
    """All settings, in their order."""
    hints = get_type_hints(ServeSettings, include_extras=True)
    return tuple(_row(one.name, hints[one.name], one.default) for one in fields(ServeSettings))


def _row(name: str, hint: Any, default: Any) -> Row:
    assert default is not MISSING
    kind, about = get_args(hint)
    choices = get_args(kind) if all(isinstance(one, str) for one in get_args(kind)) else ()
    optional = not choices and type(None) in get_args(kind)
    if optional:
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    plain = str if choices else tuple if str(kind).startswith("tuple") else kind
    return Row(name, plain, optional, choices, about, default)


def read_settings(flags: Mapping[str, Any] | None = None, *, file: Path | None = None) -> "Settings":
    """The settings from flags, the environment and a config file.

    flags  what was typed; None is nothing
    file   the config file whose table [serve] is read; it need not exist
    Raises GessoError for a value that cannot be, for an unknown name, and where the extra `serve` is missing.
    """
    try:
        from pydantic import ValidationError

        table = _table(file)
        model = _model(table)
    except ImportError as error:
        raise missing_extra("`gesso serve`", f"the package {error.name}", "serve", error) from None
    typed = {name: value for name, value in (flags or {}).items() if value is not None}
    _check_names(table, f"{file}, table [{TABLE}]")
    variables = {
        name.removeprefix(PREFIX).lower() for name, text in os.environ.items() if name.startswith(PREFIX) and text
    }
    _check_names(variables, PREFIX.rstrip("_"))
    origins: dict[str, str] = {}
    for row in setting_rows():
        place = f"--{row.name.replace('_', '-')}" if row.name in typed else row.variable
        if row.name not in typed and row.name not in variables:
            place = str(file) if row.name in table else "default"
        origins[row.name] = place
    try:
        read = model(**typed)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        place = "" if origins.get(name, "").startswith("--") else f"{origins.get(name, '')}: "
        message = f"{place}`{name}` is {short(first['input'])}, expected {_expected(name)}"
        raise GessoError(message, code="invalid_value", field=name) from None
    values = {row.name: getattr(read, row.name) for row in setting_rows()}
    return Settings(ServeSettings(**values), origins)


@dataclass(frozen=True)
class Settings:
    """The values, and where each comes from by its name: "default", the flag, the variable or the file."""

    values: ServeSettings
    origins: Mapping[str, str]

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """Name, value and origin of each, for people."""
        values = self.values
        here = {"home": values.folder, "database": values.database_url, "pictures": values.pictures_address}
        for row in setting_rows():
            value = here.get(row.name, getattr(self.values, row.name))
            yield row.name.replace("_", "-"), shown(value, row), self.origins[row.name]


def shown(value: Any, row: Row) -> str:
    """A value in words."""
    if value is None:
        return row.about.unset
    if row.name == "database":  # a password stands between the name and the host
        from sqlalchemy import make_url

        return make_url(value).render_as_string(hide_password=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _model(table: Mapping[str, Any]) -> "type[BaseSettings]":
    """The settings as pydantic-settings reads them: what is typed, then the environment, then the file."""
    from pydantic import BeforeValidator, Field, create_model
    from pydantic_settings import (
        BaseSettings,
        InitSettingsSource,
        NoDecode,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Sources(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(table)))

    hints = get_type_hints(ServeSettings, include_extras=True)
    made: dict[str, Any] = {}
    for row in setting_rows():
        kind: Any = get_args(hints[row.name])[0]
        if row.kind is tuple:
            kind = Annotated[kind, NoDecode, BeforeValidator(_listed)]
        made[row.name] = (
            kind,
            Field(default=row.default, ge=row.about.low, le=row.about.high, description=row.about.help),
        )
    return create_model("ServeSettings", __base__=Sources, **made)


def _listed(value: Any) -> Any:
    """The values of a list: apart in a file, with commas or semicolons between them in a variable."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.replace(";", ",").split(",") if part.strip())
    return value


def _toml(file: Path) -> Mapping[str, Any]:
    """A config file; an empty one where there is none. Raises GessoError."""
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GessoError(f"{file}: cannot be read ({error.strerror})", code="unreadable") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GessoError(f"{file}: not valid TOML ({error})", code="damaged") from error


def _table(file: Path | None) -> Mapping[str, Any]:
    held = _toml(file).get(TABLE, {}) if file is not None else {}
    if not isinstance(held, dict):
        raise GessoError(f"{file}: {TABLE} is {short(held)}, expected a table [{TABLE}]", code="invalid_value")
    return {name.replace("-", "_"): value for name, value in held.items()}


def _check_names(names: Iterable[str], where: str) -> None:
    known = [row.name for row in setting_rows()]
    for name in names:
        if name not in known and name not in COMMAND_ONLY:
            raise GessoError(
                f"{where}: `gesso serve` has no setting {short(name)}{nearest(name, known)}",
                code="unknown_name",
                field=name,
                data=unknown_data(name, known),
            )


def _expected(name: str) -> str:
    row = next(one for one in setting_rows() if one.name == name)
    if row.choices:
        return f"one of {', '.join(row.choices)}"
    words = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of text"}
    word = words.get(row.kind, "text")
    low, high = row.about.low, row.about.high
    return f"{word} from {low:g} to {high:g}" if low is not None and high is not None else word


def table() -> str:
    """The settings as a table for docs/serving.md."""
    lines = ["| setting | default | |", "| --- | --- | --- |"]
    for row in setting_rows():
        choices = f" {', '.join(f'`{one}`' for one in row.choices)}." if row.choices else ""
        default = (
            row.about.unset if row.default is None else f"`{shown(row.default, row)}`" if row.default != () else "none"
        )
        lines.append(f"| `{row.name.replace('_', '-')}` | {default} | {row.about.help}{choices} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
