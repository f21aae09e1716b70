"""Several files that are one model, under an index such as `model.safetensors.index.json`, as Hugging Face writes it.

The index is untrusted: it may name plain files in its own folder and nothing else, and every tensor must be in the
file that it says, and in no other.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gesso import strict_json
from gesso.checkpoints.errors import ModelFileError, examples
from gesso.checkpoints.keymap import TensorSource
from gesso.checkpoints.safetensors_file import TensorInfo, open_safetensors, read_small_file
from gesso.checkpoints.safetensors_layout import MAX_HEADER, MAX_NAME, MAX_TENSORS
from gesso.checkpoints.tensor_file import TensorFile
from gesso.errors import shorten

MAX_SHARDS = 1000
_SHARD = re.compile(r"[\w][\w .+-]*\.(?:safetensors|bin)", re.ASCII)


@dataclass(frozen=True, eq=False)
class ShardedFile:
    """Checked headers of all parts; to who loads it, one file."""

    path: Path  # of the index
    shards: Mapping[str, TensorFile]  # by file name, in the order of the index
    metadata: Mapping[str, str]  # of the first part that has any
    tensors: Mapping[str, TensorInfo]  # in the order of the index
    places: Mapping[str, str]  # tensor -> file name

    @property
    def nbytes(self) -> int:
        """Bytes of all parts together."""
        return sum(shard.nbytes for shard in self.shards.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the weights come from."""
        return tuple(path for shard in self.shards.values() for path in shard.files)

    @contextmanager
    def reader(self) -> Iterator["ShardedReader"]:
        """Maps every part. The tensors read stay valid afterwards. Raises ModelFileError."""
        with ExitStack() as stack:
            readers = {name: stack.enter_context(shard.reader()) for name, shard in self.shards.items()}
            yield ShardedReader(self, readers)


@dataclass(frozen=True, eq=False)
class ShardedReader:
    """Tensors of the open parts by name."""

    file: ShardedFile
    _readers: Mapping[str, TensorSource]

    def __getitem__(self, name: str) -> Tensor:
        """A view of the mapped part that holds the tensor."""
        return self._readers[self.file.places[name]][name]


def open_sharded(path: str | Path, open_shard: Callable[[Path], TensorFile] = open_safetensors) -> ShardedFile:
    """Reads the index and the header of every part; touches no weights. Raises ModelFileError.

    open_shard  opens one part; by default only safetensors are
    """
    path = Path(path)
    places = _read_index(path)
    shards = {name: open_shard(path.with_name(name)) for name in dict.fromkeys(places.values())}
    held: dict[str, str] = {}
    for file_name, shard in shards.items():
        for name in shard.tensors:
            if name in held:
                message = f"{shorten(name)} is in {held[name]} and in {file_name}, expected in one of them"
                raise ModelFileError("duplicate_key", path, message)
            held[name] = file_name
    if missing := [f"{name} in {place}" for name, place in places.items() if held.get(name) != place]:
        raise ModelFileError(
            "missing_key", path, f"{len(missing)} tensors are not where the index says: {examples(missing)}"
        )
    if unknown := [name for name in held if name not in places]:
        raise ModelFileError(
            "unknown_key", path, f"{len(unknown)} tensors of the shards are not in the index: {examples(unknown)}"
        )
    metadata = next((shard.metadata for shard in shards.values() if shard.metadata), {})
    tensors = {name: shards[place].tensors[name] for name, place in places.items()}
    return ShardedFile(path=path, shards=shards, metadata=metadata, tensors=tensors, places=places)


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> name of the file beside the index."""
    text = read_small_file(path, MAX_HEADER)
    if max(text.count(b","), text.count(b'"') // 2) > 8 * MAX_TENSORS:  # before the parser spends memory on them
        raise ModelFileError("shard_index", path, "has far more entries than any model has tensors")
    try:
        index = strict_json.loads(text.decode("utf-8"))
    except strict_json.RepeatedKeyError as error:
        raise ModelFileError("duplicate_key", path, f"names {shorten(error.key)!r} twice") from None
    except (ValueError, RecursionError):
        raise ModelFileError("shard_index", path, "is not JSON") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not 0 < len(places) <= MAX_TENSORS:
        message = f'has no "weight_map" of 1 to {MAX_TENSORS:,} tensors, as an index of weights has'
        raise ModelFileError("shard_index", path, message)
    for name, place in places.items():
        if not 0 < len(name) <= MAX_NAME or not isinstance(place, str):
            raise ModelFileError(
                "shard_index", path, f"has an entry {shorten(name)!r} that is not a tensor name and a file name"
            )
        if not _SHARD.fullmatch(place) or len(place) > 255:
            message = (
                f"places a tensor in {shorten(place)!r}, expected the name of a .safetensors or .bin file beside it"
            )
            raise ModelFileError("shard_name", path, message)
    if len(set(places.values())) > MAX_SHARDS:
        raise ModelFileError("shard_index", path, f"names more than {MAX_SHARDS} files")
    return places
