"""A cache for models, networks, adapters and file hashes: thread-safe, the least recently used go first."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(eq=False)
class _Slot(Generic[V]):
    """One entry. The lock is held while it is loaded, so that other threads that ask for it wait."""

    lock: Lock = field(default_factory=Lock)
    values: list[V] = field(default_factory=list)  # none until it is loaded
    nbytes: int = 0


class LRUCache(Generic[V]):
    """Values by key, for any number of threads. The least recently used are dropped first; code that holds a value can
    go on using it.

    max_items   how many values are kept
    max_nbytes  of all values together, by `nbytes`; the newest stays whatever its size. None: no limit
    nbytes      size of one value
    room_first  drop values before the next is loaded, not after: for values that fill the memory
    """

    def __init__(
        self,
        max_items: int,
        *,
        max_nbytes: int | None = None,
        nbytes: Callable[[V], int] | None = None,
        room_first: bool = False,
    ) -> None:
        self.max_items, self.max_nbytes, self.room_first = max_items, max_nbytes, room_first
        self._size = nbytes
        self._slots: OrderedDict[Hashable, _Slot[V]] = OrderedDict()
        self._lock = Lock()  # of the table; never held while a value is loaded

    def get(self, key: Hashable, load: Callable[[], V]) -> V:
        """The value of the key; `load` makes it where there is none. Raises what `load` raises."""
        with self._lock:
            if key not in self._slots:
                if self.room_first:
                    self._make_room(self.max_items - 1)
                self._slots[key] = _Slot()
            self._slots.move_to_end(key)
            slot = self._slots[key]
        with slot.lock:
            if not slot.values:
                try:
                    value = load()
                except BaseException:
                    self._forget(key, slot)
                    raise
                slot.values.append(value)
                slot.nbytes = self._size(value) if self._size is not None else 0
                with self._lock:
                    self._make_room(self.max_items)
            return slot.values[0]

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Size of all values together."""
        with self._lock:
            return sum(slot.nbytes for slot in self._slots.values())

    def _make_room(self, num_items: int) -> None:
        while len(self._slots) > num_items or (self.max_nbytes is not None and len(self._slots) > 1 and self._is_full):
            self._slots.popitem(last=False)

    @property
    def _is_full(self) -> bool:
        assert self.max_nbytes is not None
        return sum(slot.nbytes for slot in self._slots.values()) > self.max_nbytes

    def _forget(self, key: Hashable, slot: _Slot[V]) -> None:
        with self._lock:
            if self._slots.get(key) is slot:
                del self._slots[key]
