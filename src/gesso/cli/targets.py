"""Where commands put what they make: a file, a folder, or beside the picture that it was made of."""

from collections.abc import Iterable
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


def check_place(path: Path) -> None:
    """Before the work: can a file of that name be there? Raises GessoError for a folder, and where there is none."""
    if path.is_dir():
        raise GessoError(f"{path} is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise GessoError(f"{path}: there is no folder {path.parent}. Make it first, or choose another place")


def put(path: Path, data: bytes | Iterable[bytes], *, overwrite: bool) -> None:
    """Writes a file whole. Raises GessoError where one of that name stays, or where it cannot be written."""
    from gesso.pictures.picture_file import write_new

    try:
        write_new(path, data, overwrite=overwrite)
    except FileExistsError:
        raise taken(path) from None


def taken(path: Path) -> GessoError:
    """The error for a name that another file has."""
    return GessoError(f"{path} is there already and stays as it is. Choose another name, or add --overwrite")
