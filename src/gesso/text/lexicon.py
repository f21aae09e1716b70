"""Finds the objects that a text names, by its token ids."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gesso.text.tokenizer import Tokenizer

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of a hash of token ids, modulo 2 ** 64: odd, without a pattern


class Lexicon:
    """The spellings of objects, several words where an object has them.

    names: for each object its spellings; a spelling of several objects belongs to the first.
    """

    def __init__(self, tokenizer: Tokenizer, names: Sequence[Iterable[str]]) -> None:
        known: dict[tuple[int, ...], int] = {}
        spellings = [(text, number) for number, texts in enumerate(names) for text in texts]
        rows = tokenizer.encode([text for text, _ in spellings]).tolist() if spellings else []
        for (_, number), row in zip(spellings, rows, strict=True):
            if words := tuple(row[1 : row.index(tokenizer.eos)]):
                known.setdefault(words, number)
        self.eos = tokenizer.eos
        self._by_length: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        for length in sorted({len(ids) for ids in known}, reverse=True):
            same = {words: number for words, number in known.items() if len(words) == length}
            ids = np.array(list(same), dtype=np.int64)
            hashes = _hashes(ids)
            order = np.argsort(hashes)
            self._by_length[length] = (hashes[order], ids[order], np.array(list(same.values()))[order])

    @classmethod
    def of(cls, tokenizer: Tokenizer, objects: Mapping[str, Sequence[str]]) -> "Lexicon":
        """Of a family's objects, name -> synonyms, in their order."""
        return cls(tokenizer, [(name, *others) for name, others in objects.items()])

    def find(self, ids: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The first objects that each text names, and where the last word of each stands.

        ids [B, L] -> objects int64 [B, most], -1 where there are fewer, and places int64 [B, most]. The longest of
        spellings that overlap counts ("hot dog" is no dog), and an object that is named again counts once.
        """
        ids = np.asarray(ids, dtype=np.int64)
        free = np.cumsum(ids == self.eos, axis=1) == 0
        free[:, :1] = False  # the beginning
        hits: list[list[tuple[int, int]]] = [[] for _ in ids]
        for length, (hashes, spellings, numbers) in self._by_length.items():
            if length > ids.shape[1]:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(ids, length, axis=1)
            wanted = _hashes(windows)
            at = np.searchsorted(hashes, wanted).clip(max=len(hashes) - 1)
            same = (hashes[at] == wanted) & (spellings[at] == windows).all(axis=-1)
            for row, start in np.argwhere(same):
                part = slice(start, start + length)
                if free[row, part].all():
                    free[row, part] = False
                    hits[row].append((start + length - 1, int(numbers[at[row, start]])))
        objects = np.full((len(ids), most), -1, dtype=np.int64)
        places = np.zeros((len(ids), most), dtype=np.int64)
        for row, found in enumerate(hits):
            first: dict[int, int] = {}
            for place, number in sorted(found):
                first.setdefault(number, place)
            for slot, (number, place) in enumerate(list(first.items())[:most]):
                objects[row, slot], places[row, slot] = number, place
        return objects, places


def _hashes(ids: np.ndarray) -> np.ndarray:
    """[..., n] token ids -> uint64 [...]"""
    result = np.zeros(ids.shape[:-1], dtype=np.uint64)
    for column in range(ids.shape[-1]):
        result = (result + ids[..., column].astype(np.uint64) + np.uint64(1)) * _FACTOR
    return result
