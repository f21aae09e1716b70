"""Aspect buckets: sizes of about one area, to which pictures are scaled and cropped, by the rules of kohya's trainer.

A batch has pictures of one bucket. Sizes are (width, height) in pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BucketRules:
    """How buckets are made.

    resolution  the largest area is that of this size
    enabled     False: one bucket of that size
    low, high   shortest and longest side of a bucket
    step        sides are multiples of this
    upscale     False: pictures smaller than a bucket get one of their own, their size rounded down to the step
    """

    resolution: Size
    enabled: bool = True
    low: int
    high: int
    step: int
    upscale: bool = True

    def sizes(self) -> list[Size]:
        """All buckets, sorted."""
        width, height = self.resolution
        if not self.enabled:
            return [(width, height)]
        area = width * height
        square = int(math.sqrt(area) // self.step) * self.step
        found = {(square, square)}
        for side in range(self.low, self.high + 1, self.step):
            other = min(self.high, area // side // self.step * self.step)
            if other >= self.low:
                found |= {(side, other), (other, side)}
        return sorted(found)


@dataclass(frozen=True)
class Framing:
    """Where a picture lands: scaled to `scaled`, of which the middle is cropped to `bucket`.  left, top: of the crop"""

    bucket: Size
    scaled: Size
    left: int
    top: int


def framing(size: Size, rules: BucketRules, sizes: Sequence[Size]) -> Framing:
    """The bucket of a picture of a size: that of the nearest aspect ratio. sizes: those of the rules."""
    width, height = size
    aspect = width / height
    if rules.enabled and not rules.upscale:
        scaled = _no_larger(size, rules)
        bucket = (max(scaled[0] // rules.step, 1) * rules.step, max(scaled[1] // rules.step, 1) * rules.step)
        if scaled[0] < bucket[0] or scaled[1] < bucket[1]:  # smaller than a step: nothing else is left
            scaled = _cover(size, bucket)
    else:
        bucket = size if size in sizes else min(sizes, key=lambda one: abs(one[0] / one[1] - aspect))
        scaled = _cover(size, bucket)
    return Framing(bucket, scaled, (scaled[0] - bucket[0]) // 2, (scaled[1] - bucket[1]) // 2)


def _cover(size: Size, bucket: Size) -> Size:
    """The size at which a picture covers a bucket and no more."""
    wider = size[0] / size[1] > bucket[0] / bucket[1]
    scale = bucket[1] / size[1] if wider else bucket[0] / size[0]
    return max(round(size[0] * scale), bucket[0]), max(round(size[1] * scale), bucket[1])


def _no_larger(size: Size, rules: BucketRules) -> Size:
    """The size itself, or smaller so that the area fits: one side a multiple of the step, for the best aspect."""
    area, step = rules.resolution[0] * rules.resolution[1], rules.step
    if size[0] * size[1] <= area:
        return size
    aspect = size[0] / size[1]
    width = math.sqrt(area * aspect)
    by_width = max(round(width) // step, 1) * step
    by_height = max(round(area / width) // step, 1) * step
    one = by_width / (max(round(by_width / aspect) // step, 1) * step)
    other = max(round(by_height * aspect) // step, 1) * step / by_height
    if abs(one - aspect) < abs(other - aspect):
        return by_width, round(by_width / aspect)
    return round(by_height * aspect), by_height
