"""ControlNet hints (control images): hashed, resized, preprocessed and turned into tensors."""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from gesso.errors import GessoError
from gesso.hints.levels import eight_bits, is_deep
from gesso.hints.pixels import hint_pixels
from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
from gesso.hints.sizing import Size
from gesso.pictures.given import GivenPicture, as_hint
from gesso.pictures.reading import flat, hint_picture_digest
from gesso.pipelines.framing import Placement
from gesso.request.checks import RequestError
from gesso.request.parts import ControlUse

HOLE = 128  # alpha below which a pixel is masked in an inpaint hint


def hint_digest(image: GivenPicture) -> str:
    """The SHA-256 by which a request names a hint: as of any picture; depth of 16 bits and transparency count, too.

    image: or a path, an array, a tensor; see `gesso.pictures.given`
    """
    return hint_picture_digest(as_hint(image, "image"))


@dataclass(frozen=True, eq=False)
class HintPicture:
    """A picture for a control network, and how it becomes a hint.

    mask  of an inpaint hint; None: where the picture is transparent
    mode  how a picture of another shape is resized: stretch, crop or fill, see `framing.Placement`
    part  left, top, right, bottom as shares of picture and mask, if only a part is drawn (only masked)
    """

    use: ControlUse
    image: Image.Image
    mask: Image.Image | None
    mode: str
    part: tuple[float, float, float, float] | None = None

    def pixels(self, size: Size, *, swapped: bool = False) -> Tensor:
        """The hint at this size: float32 [1, 3, H, W] in [0, 1], -1 where an inpaint hint is masked.  swapped: BGR

        Raises RequestError where the preprocessor does not take the picture.
        """
        pixels = hint_pixels(self.hint(size))
        return (pixels.flip(1) if swapped else pixels).contiguous()

    def hint(self, size: Size) -> Image.Image:
        """The hint as a picture: RGB, or RGBA that is transparent where an inpaint hint is masked."""
        name = self.use.preprocessor
        if name is None:
            image = self._part_of(flat(eight_bits(self.image)))
            return Placement.of(image.size, size, self.mode).place(image)
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
                    "an inpaint hint needs a mask: give one, or a picture with a transparent part",
                    code="unsuitable_hint",
                )
            mask = self.image.getchannel("A").point([255 if level < HOLE else 0 for level in range(256)])
        return self._shaped(mask, size)

    def _shaped(self, image: Image.Image, size: Size) -> Image.Image:
        """The part of a picture that is drawn; in mode crop, its centre in the hint's shape. At the original size."""
        image = self._part_of(image)
        if self.mode != "crop":
            return image
        (width, height), (goal_width, goal_height) = image.size, size
        if width * goal_height > goal_width * height:
            part = max(round(height * goal_width / goal_height), 1), height
        else:
            part = width, max(round(width * goal_height / goal_width), 1)
        left, top = (width - part[0]) // 2, (height - part[1]) // 2
        return image.crop((left, top, left + part[0], top + part[1]))

    def _part_of(self, image: Image.Image) -> Image.Image:
        """The part of a picture that is drawn."""
        if self.part is None:
            return image
        sides = (image.width, image.height) * 2
        left, top, right, bottom = (round(share * side) for share, side in zip(self.part, sides, strict=True))
        return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
