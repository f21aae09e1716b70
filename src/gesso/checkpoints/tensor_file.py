"""What every file of weights is to who reads it: names and shapes, and the numbers on demand."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from gesso.checkpoints.keymap import TensorSource
from gesso.checkpoints.safetensors_file import TensorInfo


class TensorFile(Protocol):
    """A file whose header was checked, whatever holds its tensors. `open_weights` opens any."""

    @property
    def path(self) -> Path:
        """What was opened."""

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights come from, for hashes."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Metadata of the file; not to be trusted."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, dtypes and shapes."""

    def reader(self) -> AbstractContextManager[TensorSource]:
        """Opens the numbers; the tensors read stay valid afterwards. Raises ModelFileError."""
