"""`gesso doctor`: check that gesso works on this machine."""

import os
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from gesso.cli.json_lines import JsonOption, json_line
from gesso.errors import one_line

if TYPE_CHECKING:
    from gesso.studio.check import Check

TITLES = {
    "versions": "Versions",
    "packages": "Optional packages",
    "machine": "Machine",
    "folders": "Folders",
    "settings": "Settings",
    "drawing": "Drawing",
}
MARKS = {"ok": "ok", "note": "--", "failed": "FAILED"}


def command(as_json: JsonOption = False) -> None:
    """Check that gesso works on this machine.

    Shows versions, devices, speed of the dtypes, memory, folders and settings, draws a picture in two steps, and says
    what is missing and how to get it. Exits with 1 if something that gesso needs does not work.
    """
    if not as_json and sys.stderr.isatty():
        print("checking, which takes a few seconds ...", file=sys.stderr)
    found = sorted(_checks(), key=lambda one: list(TITLES).index(one.section))
    failed = [one for one in found if one.status == "failed"]
    if as_json:
        print(json_line({"ok": not failed, "checks": [one.to_dict() for one in found]}))
    else:
        print("\n".join(_lines(found)))
    if failed:
        raise typer.Exit(1)


def _checks() -> "Iterator[Check]":
    from gesso.studio.check import guarded
    from gesso.studio.doctor import doctor

    yield from doctor()
    yield from guarded("settings", "config", _settings)
    yield from guarded("settings", "environment", _environment)


def _settings() -> "Iterator[Check]":
    """The config files in effect, and what is wrong in them."""
    from gesso.cli.config import everything_set
    from gesso.cli.words import line_of
    from gesso.studio.check import Check
    from gesso.studio.settings import project_file, user_file

    user, project = user_file(), project_file()
    there = user is not None and os.path.lexists(user)
    text = "switched off (GESSO_CONFIG=none)" if user is None else f"{user}{'' if there else ' (does not exist yet)'}"
    yield Check(section="settings", name="config file", text=text, data={"path": user and str(user), "exists": there})
    if project is not None and os.path.lexists(project):
        yield Check(
            section="settings", name="in this folder", text=str(project), data={"path": os.path.abspath(project)}
        )
    found, problems = everything_set()
    count = f"{len(found)} setting{'' if len(found) == 1 else 's'}"
    yield Check(
        section="settings", name="set", text=f"{count}; `gesso config` shows them", data={"settings": len(found)}
    )
    for error in problems:
        advice = "Correct it; until then the commands that it is about do not run"
        data = {"code": error.code, "error": line_of(error)}
        yield Check(section="settings", name="config", status="failed", text=line_of(error), advice=advice, data=data)


def _environment() -> "Iterator[Check]":
    from gesso.cli.config import options_in_environment
    from gesso.studio.check import Check
    from gesso.studio.doctor import environment
    from gesso.studio.settings import VARIABLES

    known, unknown = options_in_environment()
    yield from environment({**VARIABLES, **known})
    for name in unknown:
        text = "no variable or option of gesso has this name"
        yield Check(section="settings", name=name, status="note", text=text, advice="`gesso config` suggests one")


def _lines(found: "list[Check]") -> Iterator[str]:
    width = max(len(one.name) for one in found)
    for section, checks in groupby(found, key=lambda one: one.section):
        yield TITLES[section]
        for one in checks:
            yield f"  {MARKS[one.status]:<6}  {one_line(one.name):<{width}}  {one_line(one.text)}"
            if one.advice:
                yield f"  {'':<6}  {'':<{width}}  {one_line(one.advice)}"
        yield ""
    failed = [one.name for one in found if one.status == "failed"]
    yield f"FAILED: {', '.join(failed)}" if failed else "All is well: gesso works on this machine."
