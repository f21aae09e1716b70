"""Adapters that were read, kept for the next request: a file is read again only where it changed."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from gesso.adapters.lora import Lora, read_lora
from gesso.adapters.textual_inversion import Embedding, read_embedding
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import Hashes, hash_file
from gesso.checkpoints.weight_file import open_weights
from gesso.families.image_prompt import is_image_prompt_file
from gesso.runtime.model import LoadedModel, stamp

MAX_NBYTES = 2 * 2**30  # numbers of safetensors stay in their mapped file; those of other files lie in memory
MAX_READ = 256
MAX_REMEMBERED = 4096

K = TypeVar("K")


class AdapterShelf:
    """LoRA and learned words of one engine. Those used longest ago go first.

    max_nbytes  of the numbers that are kept
    """

    def __init__(self, max_nbytes: int = MAX_NBYTES) -> None:
        self.max_nbytes = max_nbytes
        self._read: OrderedDict[tuple[Any, ...], tuple[Any, int, Any]] = OrderedDict()
        self._hashes: OrderedDict[tuple[Any, ...], Hashes] = OrderedDict()
        self._image_prompts: OrderedDict[tuple[Any, ...], bool] = OrderedDict()

    def lora(self, path: Path, model: LoadedModel) -> Lora:
        """The adapter as it fits a model. Raises ModelFileError as `read_lora`."""
        # The networks' shapes are the family's; holding it keeps its id from being given to another.
        family = model.family
        key = ("lora", id(family), *_identity(path))
        return cast(Lora, self._get(key, lambda: read_lora(open_weights(path), model.target), family))

    def embedding(self, path: Path, name: str) -> Embedding:
        """A learned word that a prompt calls by this name. Raises ModelFileError as `read_embedding`."""
        key = ("embedding", name, *_identity(path))
        return cast(Embedding, self._get(key, lambda: read_embedding(open_weights(path), name=name), None))

    def hashes(self, path: Path) -> Hashes:
        """Of the file's bytes; reads it where it changed since. Raises ModelFileError."""
        return _remembered(self._hashes, path, hash_file)

    def is_image_prompt(self, path: Path) -> bool:
        """Whether a network that steers is an IP-Adapter; for a PyTorch file that takes a process. Raises as that."""
        return path.is_file() and _remembered(self._image_prompts, path, is_image_prompt_file)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers that are kept."""
        return sum(nbytes for _, nbytes, _ in self._read.values())

    def _get(self, key: tuple[Any, ...], read: Callable[[], Lora | Embedding], owner: object) -> Lora | Embedding:
        if key in self._read:
            self._read.move_to_end(key)
            return cast("Lora | Embedding", self._read[key][0])
        found = read()
        self._read[key] = found, found.nbytes, owner
        while len(self._read) > 1 and (self.nbytes > self.max_nbytes or len(self._read) > MAX_READ):
            self._read.popitem(last=False)
        return found


def _remembered(known: OrderedDict[tuple[Any, ...], K], path: Path, find: Callable[[Path], K]) -> K:
    """What is found in a file, looked for again where it changed."""
    key = _identity(path)
    if key not in known:
        known[key] = find(path)
        while len(known) > MAX_REMEMBERED:
            known.popitem(last=False)
    return known[key]


def _identity(path: Path) -> tuple[Any, ...]:
    """What changes where the file does. Raises ModelFileError where it is gone."""
    try:
        return str(path.resolve()), *stamp(path)
    except OSError as error:
        raise ModelFileError("missing", path, f"cannot be read: {error.strerror}") from None
