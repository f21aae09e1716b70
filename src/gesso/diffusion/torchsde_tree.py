"""The Brownian path that k-diffusion's SDE samplers take in A1111, ComfyUI and their relatives: torchsde's tree.

torchsde halves an interval until a point is met (Li et al. 2020, arXiv:2001.01328, section 4) and draws each half from
a seed of its own, which numpy's SeedSequence makes of the picture's seed and the place in the tree. The numbers here
are its numbers: pictures of DPM++ SDE and its kin come out as in those tools. `BrownianPath` is our own path, of the
same law, which depends neither on the range of sigma nor on numpy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gesso.diffusion.noise import NoiseSource

_DIGITS = 6  # points are rounded to 1e-6, k-diffusion's tolerance
_POOL = 24  # of SeedSequence, torchsde's default
_SHALLOW = 6  # nodes above this depth are kept; deeper ones only until the next question

Normal = Callable[[int, tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class _Node:
    """An interval [start, end] of the tree.  key: its place among those of its depth"""

    start: float
    end: float
    key: int = 0
    depth: int = 0

    @property
    def middle(self) -> float:
        """Where it is halved."""
        return round(0.5 * (self.end + self.start), _DIGITS)

    def halves(self) -> "tuple[_Node, _Node]":
        """Its two children."""
        left, right = 2 * self.key, 2 * self.key + 1
        return (
            _Node(self.start, self.middle, left, self.depth + 1),
            _Node(self.middle, self.end, right, self.depth + 1),
        )


class TorchsdeTree:
    """A path W(sigma) a row, as `Brownian`.

    seeds      of the pictures, one a row
    low, high  least sigma above 0 and greatest sigma of the whole schedule, that of a run from pure noise
    normal     (seed of 32 bits, shape) -> float32 standard normal numbers: the first draw of the tool's noise source
    Raises ValueError unless 0 < low < high.
    """

    def __init__(self, seeds: Sequence[int], low: float, high: float, normal: Normal) -> None:
        if not 0 < low < high:
            raise ValueError(f"a path from sigma {low} to {high}: expected 0 < low < high")
        self._paths = [_Path(seed, low, high, normal) for seed in seeds]

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(a - b), float32: k-diffusion goes down in sigma, and so does the sign.

        Points outside the range are moved to its end. Raises ValueError unless a > b.
        """
        if not a > b:
            raise ValueError(f"no noise between sigma {a} and {b}: they must fall")
        return torch.stack([-path.increment(tuple(shape), b, a) for path in self._paths]) / math.sqrt(a - b)


class TreeNoise(NoiseSource):
    """A source whose noise between two sigmas comes from torchsde's tree, as A1111 has it: one tree a picture.

    source             of all other draws. Picture i of a run has the seed plus i in the tree, whatever the source makes
                       of pictures
    low, high, normal  as `TorchsdeTree` takes them
    """

    def __init__(self, source: NoiseSource, low: float, high: float, normal: Normal) -> None:
        super().__init__(source.seeds, source.pictures, draws=source.draws)
        self._source, self._low, self._high, self._normal = source, low, high, normal

    def fresh(self) -> "TreeNoise":
        """The same source as if nothing had been drawn."""
        return TreeNoise(self._source.fresh(), self._low, self._high, self._normal)

    def brownian(self, levels: Sequence[float]) -> TorchsdeTree:
        """The tree; levels do not matter."""
        seeds = [(seed + picture) % 2**64 for seed, picture in zip(self.seeds, self.pictures, strict=True)]
        return TorchsdeTree(seeds, self._low, self._high, self._normal)

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        return self._source.draw(shape, rows=[other == row for other in range(len(self.seeds))])[row]


class _Path:
    """The path of one row."""

    def __init__(self, seed: int, low: float, high: float, normal: Normal) -> None:
        self._seed, self._normal = seed, normal
        self._low, self._high = low, high
        self._root = _Node(round(low, _DIGITS), round(high, _DIGITS))
        self._shape: tuple[int, ...] = ()
        self._known: dict[_Node, Tensor] = {}

    def increment(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """W(high) - W(low), the sum over the largest nodes that lie between them, from the lowest on."""
        if shape != self._shape:
            self._shape, self._known = shape, {}
        self._known = {node: known for node, known in self._known.items() if node.depth < _SHALLOW}
        start, end = (round(min(max(point, self._low), self._high), _DIGITS) for point in (low, high))
        if start == end:
            return torch.zeros(shape)
        whole = self._first() * math.sqrt(self._high - self._low)
        parts: list[Tensor] = []
        waiting = [(self._root, whole)]  # those below come out first
        while waiting:
            node, value = waiting.pop()
            if start <= node.start and node.end <= end:
                parts.append(value)
            elif node.start < end and start < node.end:
                left, right = node.halves()
                at_left = self._left_half(node, value)
                waiting.append((right, value - at_left))
                waiting.append((left, at_left))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _left_half(self, node: _Node, value: Tensor) -> Tensor:
        """The increment of the lower half, given that of the node (Levy's bridge)."""
        if node not in self._known:
            reciprocal = 1 / (node.end - node.start)
            below, above = node.middle - node.start, node.end - node.middle
            numbers = self._normal(self._seeds((node.key, node.depth), 4), self._shape)
            self._known[node] = below * value * reciprocal + math.sqrt(below * above * reciprocal) * numbers
        return self._known[node]

    def _first(self) -> Tensor:
        return self._normal(self._seeds((), 3), self._shape)

    def _seeds(self, place: tuple[int, ...], count: int) -> int:
        """The first of the seeds that belong to a place in the tree."""
        sequence = np.random.SeedSequence(entropy=self._seed, spawn_key=place, pool_size=_POOL)
        return int(sequence.generate_state(count)[0])
