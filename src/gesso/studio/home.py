"""The user's places on this machine: the library, the files for styles, config and speeds; and whether to download."""

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gesso.library import Library

STYLES_FILE = "styles.csv"
CONFIG_FILE = "gesso.toml"
SPEEDS_FILE = "speed.json"


def library_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """$GESSO_HOME/models, else the folder gesso/models in the system's folder for application data."""
    if home := environ.get("GESSO_HOME"):
        return Path(home).expanduser() / "models"
    user = Path.home()
    if platform == "win32":
        base = Path(environ.get("LOCALAPPDATA") or user / "AppData" / "Local")
    elif platform == "darwin":
        base = user / "Library" / "Application Support"
    else:  # https://specifications.freedesktop.org/basedir: relative paths are to be ignored
        data = Path(environ.get("XDG_DATA_HOME", ""))
        base = data if data.is_absolute() else user / ".local" / "share"
    return base / "gesso" / "models"


def config_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """$GESSO_HOME/gesso.toml, else gesso/gesso.toml in the system's folder for configuration. It need not exist."""
    if home := environ.get("GESSO_HOME"):
        return Path(home).expanduser() / CONFIG_FILE
    user = Path.home()
    if platform == "win32":
        base = Path(environ.get("APPDATA") or user / "AppData" / "Roaming")
    elif platform == "darwin":
        base = user / "Library" / "Application Support"
    else:
        config = Path(environ.get("XDG_CONFIG_HOME", ""))
        base = config if config.is_absolute() else user / ".config"
    return base / "gesso" / CONFIG_FILE


def speeds_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """$GESSO_HOME/speed.json, else gesso/speed.json in the system's folder for what can be made again."""
    if home := environ.get("GESSO_HOME"):
        return Path(home).expanduser() / SPEEDS_FILE
    user = Path.home()
    if platform == "win32":
        base = Path(environ.get("LOCALAPPDATA") or user / "AppData" / "Local")
    elif platform == "darwin":
        base = user / "Library" / "Caches"
    else:
        cache = Path(environ.get("XDG_CACHE_HOME", ""))
        base = cache if cache.is_absolute() else user / ".cache"
    return base / "gesso" / SPEEDS_FILE


def open_library() -> "Library":
    """The user's library. Reads the environment; creates nothing."""
    from gesso.library import Library

    return Library(library_folder())


def styles_file() -> Path:
    """The user's styles, a CSV beside the library; it need not exist."""
    return library_folder().parent / STYLES_FILE


def is_offline(flag: bool = False, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether downloads are off: `flag`, or one of the environment variables of the hub client."""
    yes = ("1", "on", "yes", "true")
    return flag or any(environ.get(name, "").lower() in yes for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def resolve_model(
    name: str | Path,
    library: "Library | None" = None,
    *,
    kinds: Collection[str] = ("checkpoint",),
    offline: bool = False,
) -> str:
    """What `Engine.load` takes, for a name, a file, a folder, part of a hash or a hub's name. Raises GessoError.

    library  None: the user's
    kinds    the kinds of model that will do: ("vae", "taesd", "checkpoint") for a separate autoencoder, for example
    offline  fetch nothing, whatever the environment says
    """
    from gesso.library import resolve

    return str(resolve(name, library or open_library(), kinds=kinds, offline=is_offline(offline)))


def model_of_recipe(name: str, digests: Sequence[str], near: Path, library: "Library | None" = None) -> str | None:
    """The model that a recipe names, as `Engine.load` takes it; None where it is not on this machine.

    It is looked for in this order: among the built-in models; as a file of that name in the current folder
    and in `near`; in the library by its hashes, wherever it lies and whatever it is called.

    digests  SHA-256 of the weight files, or the first eight digits or more of each
    library  None: the user's
    The recipe may come from anyone, so its name is never taken as a path.
    """
    from gesso.library import find_by_hashes
    from gesso.library.builtin import BUILTIN_MODELS

    if name in BUILTIN_MODELS:
        return name
    plain = name and name not in (".", "..") and not any(mark in name for mark in ("/", "\\", "\0"))
    for folder in (Path(), near):
        if plain and (folder / name).exists():
            return str(folder / name)
    entry = find_by_hashes(digests, library or open_library(), name)
    return str(entry.path) if entry is not None else None
