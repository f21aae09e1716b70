"""Pictures that networks steer by: named by a hash, brought to size, made into hints, made into numbers."""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from gesso.errors import GessoError
from gesso.hints.levels import eight_bits, is_deep
from gesso.hints.pixels import hint_pixels
from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
from gesso.pictures.reading import flat, picture_digest
from gesso.pipelines.framing import Placement
from gesso.request.checks import RequestError
from gesso.request.parts import ControlUse

HOLE = 128  # level of transparency below which a pixel is in the hole of an inpainting hint
Size = tuple[int, int]  # width, height


def hint_digest(image: Image.Image) -> str:
    """How a request names a hint: as any picture, but for what the picture has no place for: depth, and holes."""
    if is_deep(image):
        levels = np.asarray(image)
        start = struct.pack(">II", *levels.shape) + str(levels.dtype).encode()
        return hashlib.sha256(start + levels.tobytes()).hexdigest()
    if "A" in image.getbands():
        rgba = image.convert("RGBA")
        return hashlib.sha256(struct.pack(">II", rgba.height, rgba.width) + rgba.tobytes()).hexdigest()
    return picture_digest(image)


@dataclass(frozen=True, eq=False)
class HintPicture:
    """A picture that was given, and how it is used.

    mask  where an inpainting hint has its hole; None: where the picture is transparent
    mode  how it comes to size where its shape is another: stretch, crop or fill, see `framing.Placement`
    part  left, top, right, bottom as shares of it, where a part of the whole picture is drawn; mask and it alike
    """

    use: ControlUse
    image: Image.Image
    mask: Image.Image | None
    mode: str
    part: tuple[float, float, float, float] | None = None

    def pixels(self, size: Size, *, swapped: bool = False) -> Tensor:
        """The hint at this size: float32 [1, 3, H, W] in [0, 1], -1 in a hole. swapped: blue, green, red.

        Raises RequestError where the preprocessor does not take the picture.
        """
        found = hint_pixels(self.made(size))
        return (found.flip(1) if swapped else found).contiguous()

    def made(self, size: Size) -> Image.Image:
        """The hint as a picture: RGB, or RGBA that is clear in the hole of an inpainting hint."""
        name = self.use.preprocessor
        if name is None:
            shown = self._taken(flat(eight_bits(self.image)))
            return Placement.of(shown.size, size, self.mode).place(shown)
        try:
            name = canonical(name)
            mask = self._hole(size) if PREPROCESSORS[name].needs_mask else None
            image = self.image if is_deep(self.image) else flat(self.image)
            return preprocess(name, self._shaped(image, size), size, dict(self.use.parameters), mask)
        except GessoError as error:
            raise RequestError("controls", f"{self.use.model}: {error.one_line}") from None

    def _hole(self, size: Size) -> Image.Image:
        mask = self.mask
        if mask is None:
            if "A" not in self.image.getbands():
                raise GessoError(
                    "the hint needs a hole: give a mask, or a picture that is transparent there", code="unsuitable_hint"
                )
            mask = self.image.getchannel("A").point([255 if level < HOLE else 0 for level in range(256)])
        return self._shaped(mask, size)

    def _shaped(self, image: Image.Image, size: Size) -> Image.Image:
        """The part of a picture that is drawn, and where it is to be cropped its middle in the hint's shape, at the
        picture's own size."""
        image = self._taken(image)
        if self.mode != "crop":
            return image
        (width, height), (wide, high) = image.size, size
        if width * high > wide * height:
            part = max(round(height * wide / high), 1), height
        else:
            part = width, max(round(width * high / wide), 1)
        left, top = (width - part[0]) // 2, (height - part[1]) // 2
        return image.crop((left, top, left + part[0], top + part[1]))

    def _taken(self, image: Image.Image) -> Image.Image:
        """The part that is drawn."""
        if self.part is None:
            return image
        sides = (image.width, image.height) * 2
        left, top, right, bottom = (round(share * side) for share, side in zip(self.part, sides, strict=True))
        return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
