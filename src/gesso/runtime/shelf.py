"""Adapters that were read, kept for the next request: a file is read again only where it changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from gesso.adapters.lora import Lora, read_lora
from gesso.adapters.textual_inversion import Embedding, read_embedding
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import Hashes, hash_file
from gesso.checkpoints.weight_file import open_weights
from gesso.events import EventStream
from gesso.families.image_prompt import is_image_prompt_file
from gesso.runtime.kept import Kept
from gesso.runtime.model import LoadedModel, stamp
from gesso.runtime.reports import reported

MAX_NBYTES = 2 * 2**30  # numbers of safetensors stay in their mapped file; those of other files lie in memory
MAX_READ = 256
MAX_REMEMBERED = 4096


class AdapterShelf:
    """LoRA and embeddings of one engine, for any number of threads. Those used longest ago go first.

    max_nbytes  of the numbers that are kept
    events      told of what is read
    """

    def __init__(self, max_nbytes: int = MAX_NBYTES, events: EventStream | None = None) -> None:
        self._events = events or EventStream()
        self._read = Kept[tuple[Lora | Embedding, object]](
            MAX_READ, max_nbytes=max_nbytes, nbytes=lambda kept: kept[0].nbytes
        )
        self._hashes = Kept[Hashes](MAX_REMEMBERED)
        self._image_prompts = Kept[bool](MAX_REMEMBERED)

    def lora(self, path: Path, model: LoadedModel) -> Lora:
        """The adapter as it fits a model. Raises ModelFileError as `read_lora`."""
        # The networks' shapes are the family's; holding it keeps its id from being given to another.
        family = model.family
        key = ("lora", id(family), *_identity(path))

        def read() -> tuple[Lora, object]:
            return read_lora(open_weights(path), model.target), family

        return cast(Lora, self._kept(key, "lora", path.stem, read))

    def embedding(self, path: Path, name: str) -> Embedding:
        """A learned word that a prompt calls by this name. Raises ModelFileError as `read_embedding`."""
        key = ("embedding", name, *_identity(path))

        def read() -> tuple[Embedding, object]:
            return read_embedding(open_weights(path), name=name), None

        return cast(Embedding, self._kept(key, "embedding", name, read))

    def _kept(
        self, key: tuple[Any, ...], kind: str, name: str, read: Callable[[], tuple[Lora | Embedding, object]]
    ) -> Lora | Embedding:
        return self._read.get(key, lambda: reported(self._events, kind, name, read, lambda adapter: adapter[0].nbytes))[
            0
        ]

    def hashes(self, path: Path) -> Hashes:
        """Of the file's bytes; reads it where it changed since. Raises ModelFileError."""
        return self._hashes.get(_identity(path), lambda: hash_file(path))

    def is_image_prompt(self, path: Path) -> bool:
        """Whether a network that steers is an IP-Adapter; for a PyTorch file that takes a process. Raises as that."""
        return path.is_file() and self._image_prompts.get(_identity(path), lambda: is_image_prompt_file(path))

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers that are kept."""
        return self._read.nbytes


def _identity(path: Path) -> tuple[Any, ...]:
    """What changes where the file does. Raises ModelFileError where it is gone."""
    try:
        return str(path.resolve()), *stamp(path)
    except OSError as error:
        raise ModelFileError("missing", path, f"cannot be read: {error.strerror}") from None
