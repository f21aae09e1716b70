"""Weight files other than safetensors: identified by content; PyTorch files are converted to safetensors.

PyTorch files are read by a closed reader in a process of its own, see `checkpoints.pickle_file`; what gesso loads is
the safetensors file that comes out of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gesso.checkpoints.foreign import START, container_of
from gesso.errors import GessoError

PYTORCH = ("zip", "stacked", "pickle")
CONVERTED = "converted"  # folder in the library for the copies of PyTorch files that are used where they lie


def container(path: Path) -> str:
    """As `foreign.container_of`; "folder" for a folder, "other" for what cannot be read."""
    try:
        if path.is_dir():
            return "folder"
        if not path.is_file():  # a pipe would not end
            return "other"
        with open(path, "rb", buffering=0) as handle:
            return container_of(handle.read(START))
    except OSError:
        return "other"


@contextmanager
def useless_copies_removed(root: Path, names: Iterable[str | Path]) -> Iterator[None]:
    """Copies of PyTorch files that are made in the block go again where it fails: nothing could use them.

    names: the files as the user named them; an error about a copy names its file instead.
    """
    before = _copies(root)
    try:
        yield
    except BaseException as error:
        for copy in _copies(root) - before:
            for name in names:
                if isinstance(error, GessoError) and copy.name.startswith(f"{Path(name).stem}."):
                    error.message = error.message.replace(str(copy), str(name))
                    error.args, error.data = (error.message,), {**error.data, "path": str(name)}
            with suppress(OSError):
                copy.unlink()
        with suppress(OSError):  # the folder too, where it holds nothing else
            if not before:
                (root / CONVERTED).rmdir()
        raise


def _copies(root: Path) -> set[Path]:
    try:
        return set((root / CONVERTED).iterdir())
    except OSError:
        return set()


def to_safetensors(source: Path, target: Path) -> None:
    """Converts a PyTorch file, whole or not at all. Raises ModelFileError for what is not plain weights."""
    from gesso.checkpoints.pickle_file import convert_pickle

    convert_pickle(source, target)


def usable_copy(root: Path, path: Path, sha256: str | None = None) -> Path:
    """The safetensors copy of a PyTorch file in the library's folder, made now where there is none.

    sha256  of the file, where it is known
    """
    from gesso.checkpoints.weight_file import converted_copy

    return converted_copy(path, root / CONVERTED, sha256=sha256)
