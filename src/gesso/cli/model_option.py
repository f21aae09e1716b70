"""The option --model: where the user's models are kept, and from what was typed to a model that can be loaded."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gesso.library import Library

MODEL_HELP = (
    "Name, file or folder of a model, part of its hash, or hf:organisation/name; `gesso models list` shows the names."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
OptionalModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help=f"{MODEL_HELP} Where left out: gesso-mini.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fetch nothing; use what is on this machine.")]


def library_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """$GESSO_HOME/models, else "models" in gesso's folder where this system keeps the data of programs."""
    if home := environ.get("GESSO_HOME"):
        return Path(home).expanduser() / "models"
    user = Path.home()
    if platform == "win32":
        base = Path(environ.get("LOCALAPPDATA") or user / "AppData" / "Local")
    elif platform == "darwin":
        base = user / "Library" / "Application Support"
    else:  # https://specifications.freedesktop.org/basedir: relative paths are to be ignored
        given = Path(environ.get("XDG_DATA_HOME", ""))
        base = given if given.is_absolute() else user / ".local" / "share"
    return base / "gesso" / "models"


def open_library() -> "Library":
    """The user's library. Reads the environment; makes nothing."""
    from gesso.library import Library

    return Library(library_folder())


def is_offline(flag: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user forbids fetching, by --offline or by the switches that the hub's own client knows."""
    yes = ("1", "on", "yes", "true")
    return flag or any(environ.get(name, "").lower() in yes for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def resolve_model(model: str, *, kinds: Sequence[str] = ("checkpoint",), offline: bool = False) -> str:
    """What `Engine.load` takes, for what the user gave as --model. Raises GessoError.

    kinds  what will do: ("vae", "taesd", "checkpoint") for a separate autoencoder, for example
    """
    from gesso.library import resolve

    return str(resolve(model, open_library(), kinds=kinds, offline=is_offline(offline)))


def model_of_recipe(name: str, digests: Sequence[str], near: Path) -> str | None:
    """The model that a recipe names: carried, a file of that name in this folder or in `near`, or known to the library
    by its hashes, wherever it lies and whatever it is called. None where it is not here.

    digests  SHA-256 of the weight files, or their first eight digits and more
    The recipe may come from anyone, so its name is never taken as a path.
    """
    from gesso.library import find_by_hashes
    from gesso.library.carried import CARRIED_MODELS

    if name in CARRIED_MODELS:
        return name
    plain = name and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0"))
    for folder in (Path(), near):
        if plain and (folder / name).exists():
            return str(folder / name)
    found = find_by_hashes(digests, open_library(), name)
    return str(found.path) if found is not None else None
