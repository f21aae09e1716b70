"""`gesso serve`: the HTTP API, its queue and its workers, in one command."""

import inspect
import sys
from typing import Annotated, Any

import typer

from gesso.errors import GessoError, in_words
from gesso.extras import missing_extra
from gesso.serving.logs import logged
from gesso.serving.settings import Row, Settings, read_settings, setting_rows, shown
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.settings import user_file
from gesso.terminal.tables import columns


def _serve(context: typer.Context, show_settings: bool, as_json: bool, **flags: Any) -> None:
    """Serve the page and the HTTP API: a queue of jobs, and workers that draw them.

    Opens the page in your browser, unless --no-browser is given or nobody sits in front of this machine. Listens on
    127.0.0.1 port 7860 and needs no key there. Other machines need one: make it with `gesso keys add`, and choose an
    address with --host. Every option can also be set in the environment, as GESSO_SERVE_PORT, and in the
    table [serve] of your config file: gesso config set serve.port 8080. docs/serving.md describes the API.

    Examples:
        gesso serve
        gesso serve --no-browser --port 8080 --log-format json
        gesso serve --host 0.0.0.0 --allowed-hosts draw.example.org
        gesso serve --show-settings
    """
    try:
        settings = read_settings(_typed(context, flags), file=user_file())
        if show_settings:
            _show(settings, as_json)
        else:
            _run(settings)
    except GessoError as error:
        error.message = in_words(error.message, _as_option)
        raise


def _as_option(name: str, value: str | None) -> str | None:
    """How a message calls a setting here."""
    known = any(row.name == name for row in setting_rows())
    return f"--{name.replace('_', '-')}" + ("" if value is None else f" {value}") if known else None


def _run(settings: Settings) -> None:
    try:
        from gesso.server.run import serve
    except ImportError as error:
        raise missing_extra("`gesso serve`", f"the package {error.name}", "serve", error) from None
    with logged(settings.values.log_format == "json"):
        serve(settings.values, lambda address: _announce(address, settings.values.browser))


def _announce(address: str, browser: bool) -> None:
    from gesso.server.page.browser import has_display, is_wanted, open_page

    print(address, flush=True)
    is_terminal = sys.stderr.isatty()
    if is_terminal:
        print("listening; Ctrl-C stops it. The page is there too. The API: /openapi.json", file=sys.stderr)
    if is_wanted(browser, is_terminal=is_terminal, display=has_display()):
        open_page(address)


def _typed(context: typer.Context, flags: dict[str, Any]) -> dict[str, Any]:
    """What stands in the command line; the settings read the environment and the file themselves."""
    sources = {name: context.get_parameter_source(name) for name in flags}
    typed = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items() if name in typed}


def _show(settings: Settings, as_json: bool) -> None:
    if as_json:
        rows = {row.name: row for row in setting_rows()}
        found = []
        for name, origin in settings.origins.items():
            value = getattr(settings.values, name)
            plain = shown(value, rows[name]) if name == "database" and value is not None else value
            value = plain if isinstance(plain, bool | int | float | type(None)) else str(plain)
            value = list(plain) if isinstance(plain, tuple) else value
            found.append({"name": name.replace("_", "-"), "value": value, "from": origin})
        print(json_line({"settings": found}))
        return
    print("\n".join(columns([("SETTING", "VALUE", "FROM"), *settings.lines()])))


# ---- the command's options, from the table of settings ---------------------------------------------------------------


def _option(row: Row) -> inspect.Parameter:
    about = row.about
    name = f"--{row.name.replace('_', '-')}"
    if row.kind is bool and row.default:
        name = f"{name}/--no-{row.name.replace('_', '-')}"
    kind: Any = list[str] if row.kind is tuple else row.kind
    bounds: dict[str, Any] = {}
    if row.kind in (int, float):
        bounds = {"min": row.kind(about.low) if about.low is not None else None, "max": about.high}
        bounds["max"] = row.kind(about.high) if about.high is not None else None
    default = row.default if not row.optional else None
    words = (
        f"{about.help} {', '.join(row.choices)}." if row.choices and row.choices[0] not in about.help else about.help
    )
    option = typer.Option(
        name,
        help=words,
        rich_help_panel=about.group,
        show_default=about.unset or True,
        metavar="NAME" if row.kind is tuple else None,
        **bounds,
    )
    if row.kind is tuple:
        kind, default = list[str] | None, None
    elif row.optional:
        kind = kind | None
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _signature() -> inspect.Signature:
    show = typer.Option("--show-settings", help="Show each setting and where it comes from, and end.")
    fixed = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter(
            "show_settings", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, show]
        ),
        inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption),
    ]
    return inspect.Signature([*fixed, *map(_option, setting_rows())])


def command(*args: Any, **kwargs: Any) -> None:
    _serve(*args, **kwargs)


command.__doc__ = _serve.__doc__
command.__signature__ = _signature()  # type: ignore[attr-defined]
command.__annotations__ = {name: one.annotation for name, one in _signature().parameters.items()}
