"""Cache of LoRA and embeddings that were read: a file is read again only if it changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from gesso.adapters.lora import Lora, read_lora
from gesso.adapters.textual_inversion import Embedding, read_embedding
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.weight_file import open_weights
from gesso.events import EventStream
from gesso.families.ip_adapter import is_ip_adapter_file
from gesso.runtime.lru_cache import LRUCache
from gesso.runtime.model import LoadedModel, stamp
from gesso.runtime.reports import load_with_events

MAX_NBYTES = 2 * 2**30  # weights of safetensors stay in the mapped file; those of other formats are in memory
MAX_READ = 256
MAX_REMEMBERED = 4096


class AdapterCache:
    """LoRA and embeddings of one engine, for any number of threads. The least recently used are dropped first.

    max_nbytes  of the weights that are kept
    events      where `ModelLoading` and `ModelLoaded` go
    """

    def __init__(self, max_nbytes: int = MAX_NBYTES, events: EventStream | None = None) -> None:
        self._events = events or EventStream()
        self._adapters = LRUCache[tuple[Lora | Embedding, object]](
            MAX_READ, max_nbytes=max_nbytes, nbytes=lambda kept: kept[0].nbytes
        )
        self._image_prompts = LRUCache[bool](MAX_REMEMBERED)

    def lora(self, path: Path, model: LoadedModel) -> Lora:
        """The adapter as it fits a model. Raises ModelFileError as `read_lora`."""
        # The networks' shapes are the family's; holding it keeps its id from being given to another.
        family = model.family
        key = ("lora", id(family), *_identity(path))

        def read() -> tuple[Lora, object]:
            return read_lora(open_weights(path), model.target), family

        return cast(Lora, self._kept(key, "lora", path.stem, read))

    def embedding(self, path: Path, name: str) -> Embedding:
        """A textual inversion embedding that prompts call by name. Raises ModelFileError as `read_embedding`."""
        key = ("embedding", name, *_identity(path))

        def read() -> tuple[Embedding, object]:
            return read_embedding(open_weights(path), name=name), None

        return cast(Embedding, self._kept(key, "embedding", name, read))

    def _kept(
        self, key: tuple[Any, ...], kind: str, name: str, read: Callable[[], tuple[Lora | Embedding, object]]
    ) -> Lora | Embedding:
        return self._adapters.get(
            key, lambda: load_with_events(self._events, kind, name, read, lambda adapter: adapter[0].nbytes)
        )[0]

    def is_ip_adapter(self, path: Path) -> bool:
        """Whether a file is an IP-Adapter. A PyTorch file is read by a child process. Raises ModelFileError."""
        return path.is_file() and self._image_prompts.get(_identity(path), lambda: is_ip_adapter_file(path))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights that are kept."""
        return self._adapters.nbytes


def _identity(path: Path) -> tuple[Any, ...]:
    """A key that changes when the file does. Raises ModelFileError if it is missing."""
    try:
        return str(path.resolve()), *stamp(path)
    except OSError as error:
        raise ModelFileError("missing", path, f"cannot be read: {error.strerror}") from None
