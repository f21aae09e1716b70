"""Where commands write their output: to a file, into a folder, or next to the input."""

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
        raise GessoError(
            f"{output}: one file name for {count} pictures; give a folder", code="invalid_name", field="output"
        )
    if output.suffix.lower() not in endings:
        text = f"{output}: expected a name ending in {' or '.join(endings)}, or an existing folder"
        raise GessoError(text, code="invalid_name", field="output")
    return False


def target(own: str, output: Path | None, *, folder: bool) -> Path:
    """The path of one picture. own: its name where the user gave none."""
    return Path(own) if output is None else output / own if folder else output


def check_place(path: Path) -> None:
    """Before the work: can the file be written? Raises GessoError for a folder, or if its folder is missing."""
    if path.is_dir():
        raise GessoError(f"{path} is a folder, expected a file name", code="wrong_kind", data={"path": str(path)})
    if not path.parent.is_dir():
        text = f"{path}: the folder {path.parent} does not exist. Create it, or choose another place"
        raise GessoError(text, code="missing", data={"path": str(path.parent)})


def check_free(path: Path | None, overwrite: bool, ending: str | None = None) -> None:
    """Before the work: is there a folder to write into, is the ending right, is the name free? Raises GessoError."""
    if path is None:
        return
    if ending is not None and path.suffix.lower() != ending:
        raise GessoError(f"{path}: expected a file name ending in {ending}", code="invalid_name")
    check_place(path)
    if path.exists() and not overwrite:
        raise taken(path)


def put(path: Path, data: bytes | Iterable[bytes], *, overwrite: bool) -> None:
    """Write a whole file. Raises GessoError if it exists and must be kept, or cannot be written."""
    from gesso.pictures.picture_file import write_new

    try:
        write_new(path, data, overwrite=overwrite)
    except FileExistsError:
        raise taken(path) from None


def taken(path: Path) -> GessoError:
    """The error for a file that already exists."""
    text = f"{path} already exists; left unchanged. Choose another name, or add --overwrite"
    return GessoError(text, code="name_taken", data={"path": str(path)})
