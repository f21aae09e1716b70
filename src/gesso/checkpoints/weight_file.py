"""Opens any file of weights: identified by content, read through one interface.

    file = open_weights("model.ckpt")
    with file.reader() as tensors:
        tensors[name]

safetensors, an index of several of them, GGUF, and PyTorch's own files by way of a converted copy.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.foreign import START, container_of
from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.keymap import TensorSource
from gesso.checkpoints.regular_file import open_regular
from gesso.checkpoints.safetensors_file import SafetensorsFile, TensorInfo, open_safetensors
from gesso.checkpoints.sharded import open_sharded
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten

if TYPE_CHECKING:
    from gesso.checkpoints.pickle_file import Limits

# The modules of pickles and GGUF are imported where such a file is opened: most pictures need neither, and importing
# them takes a hundredth of the time of a short command.


@dataclass(frozen=True, eq=False)
class PickleFile:
    """A PyTorch file. Its header was listed by the child process; its numbers are converted when they are asked for.

    The converted copy lasts as long as the reader. Where a folder for copies is at hand, `open_weights` makes a lasting
    copy instead, and this class is not used.
    """

    path: Path
    nbytes: int
    tensors: Mapping[str, TensorInfo]
    dropped: tuple[str, ...]  # what was no tensor, in words
    limits: "Limits"

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights come from."""
        return (self.path,)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Nothing: a pickle has no place for it."""
        return {}

    @contextmanager
    def reader(self) -> Iterator[TensorSource]:
        """Converts into a temporary file of the same size, and maps that. The tensors read stay valid afterwards."""
        from gesso.checkpoints.pickle_file import convert_pickle

        with tempfile.TemporaryDirectory(prefix="gesso-", ignore_cleanup_errors=True) as folder:
            target = Path(folder) / "converted.safetensors"
            convert_pickle(self.path, target, limits=self.limits)
            converted = open_safetensors(target)
            if dict(converted.tensors) != dict(self.tensors):
                raise ModelFileError("changed", self.path, "the file changed while it was read; try again")
            with converted.reader() as reader:
                yield reader


@dataclass(frozen=True, eq=False)
class ConvertedFile:
    """A PyTorch file by way of its lasting copy: messages name what the user gave, numbers come from the copy."""

    path: Path
    copy: SafetensorsFile

    @property
    def nbytes(self) -> int:
        """Bytes of the copy on disk."""
        return self.copy.nbytes

    @property
    def files(self) -> tuple[Path, ...]:
        """The copy."""
        return self.copy.files

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the copy says about itself."""
        return self.copy.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, dtypes and shapes."""
        return self.copy.tensors

    def reader(self) -> AbstractContextManager[TensorSource]:
        """Opens the numbers of the copy."""
        return self.copy.reader()


def open_weights(path: str | Path, *, converted: Path | None = None, limits: "Limits | None" = None) -> TensorFile:
    """Opens any file of weights, whatever its name; touches no weights.

    converted  folder for safetensors copies of PyTorch files, under the SHA-256 of the original: made once, used from
               then on. None: a temporary copy whenever the numbers are read
    limits     what reading a PyTorch file may take
    Raises ModelFileError, which names what another kind of file looks like.
    """
    path = Path(path)
    with open_regular(path) as (handle, nbytes):
        container = container_of(handle.read(START))
    if container == "gguf":
        from gesso.checkpoints.gguf_file import open_gguf

        return open_gguf(path)
    if container == "index":

        def open_shard(shard: Path) -> TensorFile:
            with open_regular(shard) as (handle, _):
                if container_of(handle.read(START)) == "index":  # which could name itself
                    raise ModelFileError("shard_index", path, f"names another index, {shorten(shard.name)}, as a shard")
            return open_weights(shard, converted=converted, limits=limits)

        return open_sharded(path, open_shard)
    if container == "other":
        return open_safetensors(path)
    if converted is not None:
        return ConvertedFile(path, open_safetensors(converted_copy(path, converted, limits=limits)))
    from gesso.checkpoints.pickle_file import Limits, list_pickle

    listing = list_pickle(path, limits=limits)
    return PickleFile(path, nbytes, listing.tensors, listing.dropped, limits or Limits())


def _is_copy(copy: Path, digest: str) -> bool:
    from gesso.checkpoints.pickle_file import SOURCE_KEY

    try:
        return open_safetensors(copy).metadata.get(SOURCE_KEY) == digest
    except ModelFileError:  # not there, or damaged since
        return False


def converted_copy(path: Path, folder: Path, *, limits: "Limits | None" = None, sha256: str | None = None) -> Path:
    """The safetensors copy of a PyTorch file in this folder, made now where there is none. Raises ModelFileError.

    sha256  of the file, where it is known. The copy's name has its start, the copy's metadata all of it.
    Two processes may make the same copy at once: each writes its own and the last to end replaces an equal file.
    """
    from gesso.checkpoints.pickle_file import convert_pickle

    digest = sha256 or sha256_of(path)
    copy = folder / f"{path.stem}.{digest[:10]}.safetensors"
    if not _is_copy(copy, digest):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelFileError("unwritable", folder, f"cannot be made: {error.strerror}") from None
        convert_pickle(path, copy, limits=limits)
    return copy
