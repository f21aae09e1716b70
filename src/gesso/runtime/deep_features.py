"""Deep features of a UNet, kept from call to call (DeepCache, Ma et al. 2024, arXiv:2312.00858)."""

from torch import Tensor


class DeepFeatures:
    """What one run keeps: the deeper levels are computed in every `interval`-th call, and taken from the last between.

    A call of other rows or another size than the last (guidance that ends, a second prompt) computes them anew.
    """

    def __init__(self, interval: int) -> None:
        if interval < 2:
            raise ValueError(f"interval {interval}: expected 2 or more")
        self.interval = interval
        self._calls = 0
        self._kept: dict[tuple[int | None, ...], list[Tensor]] = {}

    def of(self, z: Tensor, rows: slice) -> list[Tensor]:
        """The list for `UNet.forward`, for these rows of a call.  z: its input, [B, C, h, w]"""
        key = (rows.start, *z.shape)
        if self._calls % self.interval == 0:
            self._kept.pop(key, None)
        if key not in self._kept:
            self._kept = {kept: tensors for kept, tensors in self._kept.items() if kept[2:] == key[2:]}
        return self._kept.setdefault(key, [])

    def count(self) -> None:
        """A call, of all its rows, is over."""
        self._calls += 1
