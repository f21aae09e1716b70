"""Where commands that make a picture of each picture put them: a file, a folder, or beside one."""

from pathlib import Path

from gesso.errors import GessoError


def is_folder(output: Path | None, count: int, endings: tuple[str, ...]) -> bool:
    """Whether --output means a folder for `count` pictures.

    Raises GessoError for the name of one file where there are several, and for an ending that is not written.
    """
    if output is None:
        return False
    if output.is_dir() or (count > 1 and not output.suffix):
        return True
    if count > 1:
        raise GessoError(f"{output}: one name for {count} pictures; name a folder")
    if output.suffix.lower() not in endings:
        raise GessoError(f"{output}: let the name end in {' or '.join(endings)}, or name a folder that is there")
    return False


def target(own: str, output: Path | None, *, folder: bool) -> Path:
    """The path of one picture. own: its name where the user gave none."""
    return Path(own) if output is None else output / own if folder else output


def taken(path: Path) -> GessoError:
    """The error for a name that another file has."""
    return GessoError(f"{path}: is there already. Choose another --output, or --overwrite")
