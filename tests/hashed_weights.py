"""Weights that anyone can make again: each tensor is random, seeded by its own name in the file.

RandomState(crc32(name)) gives standard normal numbers n of the tensor's shape, in float64; then the first line that
fits: no dimensions: 0; one dimension: 1 + 0.1 n for a weight, 0.05 n for a bias; an embedding: 0.5 n; OpenCLIP's
text_projection and any other: n / sqrt(fan-in). The golden numbers in golden/models.safetensors were made with them, by
other programs.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def normal(name: str, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers of a name: float32."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(np.asarray(random.standard_normal(tuple(shape)), dtype=np.float32))


def hashed(name: str, shape: Sequence[int]) -> Tensor:
    """The weights of one tensor: float32."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    n = np.asarray(random.standard_normal(tuple(shape)))
    if len(shape) == 0:
        n = np.zeros(())
    elif len(shape) == 1:
        n = 1 + 0.1 * n if name.endswith("weight") else 0.05 * n
    elif "embedding" in name:
        n = 0.5 * n
    elif name.endswith("text_projection"):  # used as x @ weight
        n /= math.sqrt(shape[0])
    else:
        n /= math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(n.astype(np.float32))


class HashedSource:
    """A file of hashed weights that is made up while it is read."""

    def __init__(self, shapes: Mapping[str, Sequence[int]], prefix: str = "") -> None:
        """prefix: part of the names that are hashed, where the names of the shapes lack it."""
        self.shapes = shapes
        self.prefix = prefix

    def __getitem__(self, name: str) -> Tensor:
        return hashed(self.prefix + name, self.shapes[name])
