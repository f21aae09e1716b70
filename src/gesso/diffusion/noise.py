"""Noise sources: gesso's Philox noise, Brownian paths, and the CPU and NV sources of A1111 and diffusers.

A picture depends on its seed and on its index in the run, never on the device, on its place in a batch or on its
neighbours. So every row of a batch owns its numbers and counts its own draws, and all of them are made on the CPU.

Philox 4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", figure 4 and section 3.3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_PATH_OCTAVES = 16  # a Brownian path goes from sigma 2^-16 to 2^16


def philox4x32(counter: Sequence[NDArray[np.unsignedinteger[Any]] | int], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Ten rounds of Philox 4x32.

    counter: four words, each a whole number or an array [n]; key: two words. All words 0 .. 2^32 - 1.
    -> uint32 [4, n]; n = 1 where all four are plain numbers.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(word, dtype=np.uint64)) for word in counter))
    k0, k1 = key
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)  # 32 bits times 32 bits never overflow the 64
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> _HALF) ^ c1 ^ np.uint64(k0),
            product1 & _LOW_HALF,
            (product0 >> _HALF) ^ c3 ^ np.uint64(k1),
            product0 & _LOW_HALF,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def philox_normal(shape: Sequence[int], *, seed: int, picture: int = 0, draw: int = 0, stream: int = 0) -> Tensor:
    """Standard normal numbers that depend on (seed, picture, draw, stream) and on nothing else.

    shape of one picture, without the batch -> float32 on the CPU; at most 6.8 in size (u below is at least 2^-33).
    The layout, which never changes, since every saved recipe relies on it:

        key     = (seed mod 2^32, seed div 2^32)
        counter = (block, draw, picture, stream); stream 0: plain draws, 1: `BrownianPath`
        block b gives the numbers 4b .. 4b+3 of the picture in C order; from its words w0 w1 w2 w3:
        u = (w + 0.5) / 2^32,  number 4b   = sqrt(-2 ln u0) cos(2 pi u1),  4b+1 = sqrt(-2 ln u0) sin(2 pi u1),
                               number 4b+2 = sqrt(-2 ln u2) cos(2 pi u3),  4b+3 = sqrt(-2 ln u2) sin(2 pi u3)

    All in float64, rounded to float32 at the end. Logarithm, sine and cosine are made of + - * / and sqrt alone, which
    IEEE 754 fixes to the last bit, since those of numpy and of the C library change with the processor.
    Raises ValueError unless 0 <= seed < 2^64 and 0 <= picture, draw, stream < 2^32.
    """
    _check_word("picture", picture, 32)
    _check_word("draw", draw, 32)
    _check_word("stream", stream, 32)
    count = math.prod(shape)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    u0, u1, u2, u3 = (philox4x32((blocks, draw, picture, stream), _key(seed)) + 0.5) * 2.0**-32
    numbers = np.empty((len(blocks), 4), dtype=np.float64)
    for lane, radius_from, turns in ((0, u0, u1), (2, u2, u3)):
        radius = np.sqrt(-2.0 * _ln(radius_from))
        cosine, sine = _cos_sin(turns)
        numbers[:, lane] = radius * cosine
        numbers[:, lane + 1] = radius * sine
    return _as_tensor(numbers.ravel()[:count], shape)


def nv_normal(shape: Sequence[int], *, seed: int, draw: int = 0) -> Tensor:
    """The numbers of torch's CUDA generator, as A1111 computes them for its noise source "NV".

    shape of one picture -> float32 on the CPU. key = seed as above, counter = (draw, 0, element, 0), and of each block
    only one number is used: sqrt(-2 ln u0) sin(2 pi u1). CUDA itself works in float32 and differs by about 2e-7.
    Raises ValueError unless 0 <= seed < 2^64 and 0 <= draw < 2^32.
    """
    _check_word("draw", draw, 32)
    count = math.prod(shape)
    words = philox4x32((draw, 0, np.arange(count, dtype=np.uint64), 0), _key(seed))
    u0, u1 = (words[:2] + 0.5) * 2.0**-32
    _, sine = _cos_sin(u1 * _NV_TURN)
    return _as_tensor(np.sqrt(-2.0 * _ln(u0)) * sine, shape)


class NoiseSource(ABC):
    """Random numbers for a batch: row i has its own seed and picture index, and counts its own draws.

    seeds, pictures: one each row; pictures default to 0 for all rows.
    draws: how many numbers each row has drawn already; with seeds and pictures it is the whole state, so a source made
    from these three goes on where another one stopped.
    Raises ValueError for lists of different length and for numbers that are out of range.
    """

    def __init__(
        self, seeds: Sequence[int], pictures: Sequence[int] | None = None, *, draws: Sequence[int] | None = None
    ) -> None:
        self.seeds = tuple(seeds)
        self.pictures = tuple(pictures) if pictures is not None else (0,) * len(self.seeds)
        self.draws = list(draws) if draws is not None else [0] * len(self.seeds)
        if not len(self.seeds) == len(self.pictures) == len(self.draws):
            lengths = f"{len(self.seeds)} seeds, {len(self.pictures)} pictures, {len(self.draws)} draws"
            raise ValueError(f"{lengths}: expected one of each per row")
        for seed, picture, draw in zip(self.seeds, self.pictures, self.draws, strict=True):
            _check_word("seed", seed, 64)
            _check_word("picture", picture, 32)
            _check_word("draw", draw, 32)

    def draw(self, shape: Sequence[int], *, rows: Sequence[bool] | None = None) -> Tensor:
        """The next numbers of every row. shape of one row -> float32 [B, *shape] on the CPU.

        rows: which rows draw; the others get zeros, and their count stays. None: all.
        """
        chosen = list(rows) if rows is not None else [True] * len(self.seeds)
        drawn = [self._draw_row(row, tuple(shape)) if chosen[row] else None for row in range(len(self.seeds))]
        self.draws = [count + is_chosen for count, is_chosen in zip(self.draws, chosen, strict=True)]
        like = next((numbers for numbers in drawn if numbers is not None), torch.empty(0))
        if not drawn:
            return torch.empty(0, *shape)
        return torch.stack([numbers if numbers is not None else like.new_zeros(tuple(shape)) for numbers in drawn])

    def fresh(self) -> NoiseSource:
        """The same source as if nothing had been drawn."""
        return type(self)(self.seeds, self.pictures)

    def brownian(self, levels: Sequence[float]) -> Brownian:
        """One Brownian path in sigma a row, for samplers that ask for noise between two sigmas.

        levels: the sigmas of the run, which set how finely the path is looked at. The path itself depends on seed and
        picture alone and counts no draws, so it is the same for 20 steps and for 30.
        """
        return BrownianPath(self.seeds, self.pictures, levels)

    @abstractmethod
    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        """Draw number self.draws[row] of that row."""


class Brownian(Protocol):
    """Noise between two sigmas."""

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """(W(a) - W(b)) / sqrt(a - b), standard normal. shape of one row, a > b > 0 -> [B, *shape] on the CPU."""


class BrownianPath:
    """A Brownian path W(sigma) a row, from a counter-based tree: any two points may be asked for, in any order.

    Nested and neighbouring intervals fit together: W(a) - W(b) = (W(a) - W(m)) + (W(m) - W(b)). Nothing depends on the
    order of the questions, on the batch or on the device.

    The tree covers 2^-16 .. 2^16. Each node halves its interval in ln(sigma), at sqrt(low * high), and bridges there
    (Levy's construction): the mean of the ends, weighted, plus sqrt((high - mid)(mid - low) / (high - low)) times the
    node's own normal numbers. Node j of depth d draws `philox_normal` with counter (block, 2^d + j, picture, 1), whose
    last word sets it apart from ordinary draws; the root interval is node 0. Square roots alone, which IEEE 754 fixes.

    A sigma is moved to the nearest point of the grid, whose spacing in ln(sigma) is at most 1/16 of the closest two of
    `levels` (and at least 2^-24 ln 2), so the cost is less than one draw for each point and level of the tree. An
    increment is scaled by the moved ends: its variance is exactly 1.
    A1111 takes torchsde's BrownianTree instead, another path with the same law: `torchsde_tree`.

    Raises ValueError for levels with no two different sigmas above 0, and for sigmas outside the tree.
    """

    def __init__(self, seeds: Sequence[int], pictures: Sequence[int], levels: Sequence[float]) -> None:
        positive = sorted({level for level in levels if level > 0})
        if len(positive) < 2:
            raise ValueError(f"a path needs two different sigmas above 0, found {list(levels)}")
        closest = min(math.log(high / low) for low, high in pairwise(positive))
        fineness = math.ceil(math.log2(_PATH_OCTAVES * 2 * math.log(2.0) * 16 / closest))
        self.depth = min(max(fineness, 1), 29)
        self._seeds, self._pictures = tuple(seeds), tuple(pictures)
        self._shape: tuple[int, ...] = ()
        self._known: dict[int, Tensor] = {}
        self._seen: set[int] = set()

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """(W(a) - W(b)) / sqrt(a - b), float32. Raises ValueError unless 2^16 > a > b > 2^-16, far enough apart."""
        if self._shape != tuple(shape):
            self._shape, self._known = tuple(shape), {}
        self._seen = set()
        (high, at_high), (low, at_low) = self._point(a), self._point(b)
        # What is near the root is on the way to most points, what is deep on that to the next question at most.
        self._known = {node: known for node, known in self._known.items() if node < 64 or node in self._seen}
        if not high > low:
            raise ValueError(f"no noise between sigma {a} and {b}: they must fall and be no closer than the levels")
        return ((at_high - at_low) / math.sqrt(high - low)).to(torch.float32)

    def _point(self, sigma: float) -> tuple[float, Tensor]:
        """The grid point nearest to sigma and W there, float64 [B, *shape]."""
        low, high = 2.0**-_PATH_OCTAVES, 2.0**_PATH_OCTAVES
        if not low < sigma < high:
            raise ValueError(f"sigma is {sigma}, a Brownian path goes from {low} to {high}")
        at_low, at_high, node = torch.zeros((), dtype=torch.float64), self._root(low, high), 1
        for _ in range(self.depth):
            mid = math.sqrt(low * high)
            at_mid = self._bridge(node, low, mid, high, at_low, at_high)
            if sigma >= mid:
                low, at_low, node = mid, at_mid, 2 * node + 1
            else:
                high, at_high, node = mid, at_mid, 2 * node
        near_high = sigma * sigma >= low * high  # nearer in ln(sigma)
        rows = torch.zeros((len(self._seeds), *self._shape), dtype=torch.float64)
        return (high, at_high + rows) if near_high else (low, at_low + rows)

    def _root(self, low: float, high: float) -> Tensor:
        if 0 not in self._known:
            self._known[0] = self._numbers(0) * math.sqrt(high - low)
        return self._known[0]

    def _bridge(self, node: int, low: float, mid: float, high: float, at_low: Tensor, at_high: Tensor) -> Tensor:
        self._seen.add(node)
        if node not in self._known:
            share = (mid - low) / (high - low)
            spread = math.sqrt((high - mid) * share)
            self._known[node] = at_low + (at_high - at_low) * share + self._numbers(node) * spread
        return self._known[node]

    def _numbers(self, node: int) -> Tensor:
        rows = [
            philox_normal(self._shape, seed=seed, picture=picture, draw=node, stream=1)
            for seed, picture in zip(self._seeds, self._pictures, strict=True)
        ]
        return torch.stack(rows).to(torch.float64)


class PhiloxNoise(NoiseSource):
    """gesso's own numbers, see `philox_normal`."""

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        return philox_normal(shape, seed=self.seeds[row], picture=self.pictures[row], draw=self.draws[row])


class NvNoise(NoiseSource):
    """A1111's noise source "NV" (and, to the last bit or two, "GPU"): picture i of a run has the seed plus i."""

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        return nv_normal(shape, seed=_seed_of_picture(self.seeds[row], self.pictures[row]), draw=self.draws[row])


class CpuNoise(NoiseSource):
    """torch's CPU generator, one a picture, seeded with the seed plus the picture's index (A1111's "CPU", diffusers).

    The generator moves on with each draw, so a source that starts at draw k makes the k draws before it once more and
    throws them away; they must have had the same shape. torch draws fewer than 16 numbers in another way than more.
    """

    def __init__(
        self, seeds: Sequence[int], pictures: Sequence[int] | None = None, *, draws: Sequence[int] | None = None
    ) -> None:
        super().__init__(seeds, pictures, draws=draws)
        self._generators: dict[int, torch.Generator] = {}

    def _draw_row(self, row: int, shape: tuple[int, ...]) -> Tensor:
        generator = self._generators.get(row)
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(_seed_of_picture(self.seeds[row], self.pictures[row]))
            for _ in range(self.draws[row]):
                torch.randn(shape, generator=generator)
            self._generators[row] = generator
        return torch.randn(shape, generator=generator)


NOISE_SOURCES: dict[str, type[NoiseSource]] = {"philox": PhiloxNoise, "cpu": CpuNoise, "nv": NvNoise}


# A1111 keeps 2 pi / 2^32 in float32; this is how far its full turn is from 2 pi, as a factor.
_NV_TURN = float(np.float32(2.0**-32 * 2.0 * math.pi)) * 2.0**32 / (2.0 * math.pi)

# Taylor series, highest power first, long enough that the next term is below 1e-17 in the range in use.
_ATANH = [1 / (2 * k + 1) for k in range(11, -1, -1)]  # of s^2k, |s| <= 0.172
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(9, -1, -1)]  # of angle^2k, |angle| <= pi/4
_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(9, -1, -1)]


def _horner(coefficients: list[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _ln(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(u) for u in (0, 1): u = m 2^e with m near 1, ln m = 2 atanh((m - 1) / (m + 1))."""
    mantissa, exponent = np.frexp(u)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    exponent = np.where(small, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * math.log(2.0) + 2.0 * s * _horner(_ATANH, s * s)


def _cos_sin(turns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of 2 pi turns, turns in [0, 1]: the nearest quarter turn is taken off exactly."""
    quarter = np.rint(turns * 4.0)
    angle = (turns - quarter * 0.25) * (2.0 * math.pi)
    square = angle * angle
    cosine, sine = _horner(_COS, square), angle * _horner(_SIN, square)
    quadrant = quarter.astype(np.int64) % 4
    odd = quadrant % 2 == 1
    return (
        np.where(odd, sine, cosine) * np.where((quadrant == 1) | (quadrant == 2), -1.0, 1.0),
        np.where(odd, cosine, sine) * np.where(quadrant >= 2, -1.0, 1.0),
    )


def _as_tensor(numbers: NDArray[np.float64], shape: Sequence[int]) -> Tensor:
    return torch.from_numpy(numbers.astype(np.float32)).reshape(tuple(shape))


def _key(seed: int) -> tuple[int, int]:
    _check_word("seed", seed, 64)
    return seed & 0xFFFFFFFF, seed >> 32


def _seed_of_picture(seed: int, picture: int) -> int:
    return (seed + picture) % 2**64


def _check_word(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 2**bits:
        raise ValueError(f"{name} is {value}, expected 0 .. 2^{bits} - 1")
