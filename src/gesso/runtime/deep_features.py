"""Deep features of a UNet, kept from call to call (DeepCache, Ma et al. 2024, arXiv:2312.00858)."""

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import Tensor

from gesso.runtime.conditioning import Conditioning


@dataclass
class _Kept:
    """Of one conditioning.

    shape  of the calls
    parts  first row -> features of the call's part from there on, as `UNet.forward` takes them
    """

    shape: tuple[int, ...]
    calls: int = 0
    parts: dict[int | None, list[Tensor]] = field(default_factory=dict)


class DeepFeatures:
    """What one run keeps: the deeper levels are computed in every `interval`-th call, and taken from the last between.

    Each conditioning has its own: features hold what the text says, so those of another prompt, or of the negative
    prompt where it is called separately, would draw something else. A call of another size computes them anew.
    """

    def __init__(self, interval: int) -> None:
        if interval < 2:
            raise ValueError(f"interval {interval}: expected 2 or more")
        self.interval = interval
        self._kept: WeakKeyDictionary[Conditioning, _Kept] = WeakKeyDictionary()

    def of_call(self, z: Tensor, conditioning: Conditioning) -> dict[int | None, list[Tensor]]:
        """Begin a call: what it has for its parts.  z: its input, [B, C, h, w]; conditioning: the run's own object"""
        kept = self._kept.get(conditioning)
        if kept is None or kept.calls == self.interval or kept.shape != z.shape:
            kept = self._kept[conditioning] = _Kept(tuple(z.shape))
        kept.calls += 1
        return kept.parts
