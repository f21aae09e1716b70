"""Things that are kept: loaded once, whoever asks; the one used longest ago goes first."""

import threading
import time

import pytest

from gesso.runtime.lru_cache import LRUCache


def test_what_is_kept_is_loaded_once_and_the_oldest_goes():
    kept, loads = LRUCache[str](2), list[str]()

    def get(key: str) -> str:
        return kept.get(key, lambda: loads.append(key) or key.upper())

    assert [get(key) for key in "ababa"] == list("ABABA")
    assert loads == ["a", "b"]
    get("c")  # a was used last, so b goes
    get("a")
    assert loads == ["a", "b", "c"]
    get("b")
    assert loads == ["a", "b", "c", "b"]
    assert len(kept) == 2


def test_room_is_made_first_where_that_is_asked_for():
    """Two models at once may be too much for a moment, too."""
    for first, expected in ((True, 0), (False, 1)):
        kept = LRUCache[int](1, room_first=first)
        kept.get("a", lambda: 1)
        assert kept.get("b", lambda kept=kept: len(kept)) - 1 == expected


def test_bytes_count_and_the_last_one_stays():
    kept = LRUCache[bytes](9, max_nbytes=10, nbytes=len)
    for size in (4, 5, 3):
        kept.get(size, lambda size=size: bytes(size))
    assert kept.nbytes == 8
    kept.get(100, lambda: bytes(100))
    assert (len(kept), kept.nbytes) == (1, 100)


def test_threads_that_ask_for_one_thing_wait_for_one_loading():
    kept, loads, values = LRUCache[object](4), [], []

    def load() -> object:
        loads.append(1)
        time.sleep(0.05)
        return object()

    threads = [threading.Thread(target=lambda: values.append(kept.get("a", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len({id(value) for value in values}) == 1


def test_others_are_served_while_one_is_loaded():
    kept, loading, done = LRUCache[int](4), threading.Event(), threading.Event()

    def slow() -> int:
        loading.set()
        assert done.wait(10)
        return 1

    thread = threading.Thread(target=lambda: kept.get("slow", slow))
    thread.start()
    assert loading.wait(10)
    assert kept.get("quick", lambda: 2) == 2
    done.set()
    thread.join()
    assert kept.get("slow", lambda: 3) == 1


def test_a_loading_that_fails_is_tried_again():
    kept = LRUCache[int](2)

    def fails() -> int:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            kept.get("a", fails)
    assert len(kept) == 0
    assert kept.get("a", lambda: 5) == 5
