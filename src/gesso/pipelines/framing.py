"""How a picture that goes in lies on the canvas that is drawn, and the way back: resizing, new borders, one part."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from gesso.families.base import Family
from gesso.pipelines.source_images import drawable_size, fit
from gesso.request.checks import MAX_SIDE, RequestError
from gesso.request.request import MAX_PIXELS, ResolvedRequest, TextToImageRequest

MAX_COVER = 16  # how many times larger than what is seen of it a picture is made

Size = tuple[int, int]  # width, height
Box = tuple[int, int, int, int]  # left, top, right, bottom
Sides = tuple[int, int, int, int]  # pixels at the left, top, right, bottom


@dataclass(frozen=True)
class Placement:
    """A picture of any size on a canvas.

    canvas     width and height of what is drawn
    size       of the picture there
    left, top  where its corner lies; negative where it reaches beyond the canvas, which cuts it off
    """

    canvas: Size
    size: Size
    left: int = 0
    top: int = 0

    @staticmethod
    def of(size: Size, canvas: Size, mode: str) -> "Placement":
        """A picture of a size on a canvas of another shape, by A1111's rules and roundings.

        stretch: each side by its own factor. crop: it covers the canvas, what stands out is cut off. fill: all of it is
        seen, and beside it is room.
        """
        if mode == "stretch":
            return Placement(canvas, canvas)
        (width, height), (wide, high) = size, canvas
        canvas_is_wider = wide * height > high * width
        if canvas_is_wider == (mode == "crop"):
            on_canvas = wide, max(height * wide // width, 1)
        else:
            on_canvas = max(width * high // height, 1), high
        return Placement(canvas, on_canvas, wide // 2 - on_canvas[0] // 2, high // 2 - on_canvas[1] // 2)

    @property
    def visible(self) -> Box:
        """The part of the canvas that the picture covers."""
        (wide, high), (width, height) = self.canvas, self.size
        return (
            max(self.left, 0),
            max(self.top, 0),
            min(self.left + width, wide),
            min(self.top + height, high),
        )

    def place(self, image: Image.Image) -> Image.Image:
        """The picture on its canvas; beside it, its edge goes on."""
        left, top, right, bottom = self.visible
        part = left - self.left, top - self.top, right - self.left, bottom - self.top
        (width, height), area = self.size, (right - left) * (bottom - top)
        if width * height <= MAX_COVER * area:  # as other tools do it, which gives the same pixels
            seen = fit(image, width, height).crop(part)
        else:  # of a sliver that covers the canvas nearly all is cut off: it is never made
            across, down = image.width / width, image.height / height
            box = (part[0] * across, part[1] * down, part[2] * across, part[3] * down)
            seen = image.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box)
        return extend(seen, (left, top, self.canvas[0] - right, self.canvas[1] - bottom))

    def back(self, drawn: Image.Image, size: Size) -> Image.Image:
        """What was drawn of the picture, at the picture's size; for a placement that cuts nothing off."""
        return fit(drawn.crop(self.visible), *size)


def extend(image: Image.Image, sides: Sides) -> Image.Image:
    """A picture with borders, which repeat the pixels of its edge."""
    if not any(sides):
        return image
    left, top, right, bottom = sides
    levels = np.asarray(image)
    around = [(top, bottom), (left, right)] + [(0, 0)] * (levels.ndim - 2)
    return Image.fromarray(np.pad(levels, around, mode="edge"))


def border_mask(canvas: Size, sides: Sides, overlap: int) -> Image.Image:
    """White where a border of these widths lies, and `overlap` pixels into the picture, so that a softened edge lies
    within the picture; black else."""
    (wide, high), (left, top, right, bottom) = canvas, (side + overlap if side else 0 for side in sides)
    levels = np.full((high, wide), 255, dtype=np.uint8)
    levels[top : max(high - bottom, top), left : max(wide - right, left)] = 0
    return Image.fromarray(levels)


def masked_region(mask: Image.Image, padding: int, canvas: Size) -> Box:
    """The box around what is not black, with a padding, grown to the shape of the canvas as far as the picture goes.

    Raises RequestError where all is black.
    """
    found = mask.getbbox()
    if found is None:
        raise RequestError("mask", "the mask is black everywhere: nothing would be drawn. White is drawn again")
    width, height = mask.size
    left, right = max(found[0] - padding, 0), min(found[2] + padding, width)
    top, bottom = max(found[1] - padding, 0), min(found[3] + padding, height)
    wide, high = canvas
    if (right - left) * high > (bottom - top) * wide:
        top, bottom = _grown(top, bottom, (right - left) * high // wide, height)
    else:
        left, right = _grown(left, right, (bottom - top) * wide // high, width)
    return left, top, right, bottom


def _grown(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """An interval of that length around another, moved where it would leave 0 .. limit, cut where it must be."""
    length = min(max(length, high - low), limit)
    start = min(max(low - (length - (high - low)) // 2, 0), limit - length)
    return start, start + length


def with_size(request: TextToImageRequest, family: Family, image: Image.Image | None) -> TextToImageRequest:
    """A picture that goes in decides the size where the request says nothing; one that is enlarged decides it alone.

    Where borders are added, they grow until the model can draw the whole. Where only what is masked is drawn, the
    picture decides nothing: the model's own size does.
    """
    if image is None or (request.mask.area == "masked" and family.concat != "upscale"):
        return request
    width, height = drawable_size(image, family.size_multiple)
    if family.concat == "upscale":
        scale = family.vae.downscale
        width, height = image.width * scale, image.height * scale
        for name, side, own in (("width", width, request.width), ("height", height, request.height)):
            if own not in (None, side):
                raise RequestError(name, f"{name} {own}: this model makes {side} of the picture's {side // scale}")
    elif request.width is not None or request.height is not None:
        return request
    elif request.source.outpaint is not None:
        return _with_borders(request, family.size_multiple, image)
    return replace(request, width=width, height=height)


def _with_borders(request: TextToImageRequest, multiple: int, image: Image.Image) -> TextToImageRequest:
    """The size of a picture with its borders; each border is made wider until the model can draw the whole."""
    assert request.source.outpaint is not None
    left, top, right, bottom = request.source.outpaint
    inside = image.size if image.width * image.height <= MAX_PIXELS else drawable_size(image, multiple)
    sides = []
    for name, own, before, after in (("width", inside[0], left, right), ("height", inside[1], top, bottom)):
        own = own if before or after else max(own // multiple, 1) * multiple
        missing = -(own + before + after) % multiple
        before, after = (before, after + missing) if after else (before + missing * bool(before), after)
        whole = own + before + after
        if whole > MAX_SIDE:
            raise RequestError("source.outpaint", f"{name} {own} with borders is {whole}, at most {MAX_SIDE} are drawn")
        sides.append((whole, before, after))
    (width, left, right), (height, top, bottom) = sides
    source = replace(request.source, outpaint=(left, top, right, bottom))
    return replace(request, width=width, height=height, source=source)


def finished_size(request: ResolvedRequest, image: Image.Image | None) -> Size | None:
    """Width and height of the finished picture where a second pass, borders or a part make it another than is drawn
    first or was given; else None.
    """
    hires = request.hires
    if hires is not None and hires.width is not None and hires.height is not None:
        return hires.width, hires.height
    if request.mask.area == "masked" and image is not None:
        return image.size
    return (request.width, request.height) if request.source.outpaint is not None else None


def inside_of(canvas: Size, sides: Sides) -> Size:
    """What borders leave of a canvas for the picture. Raises RequestError where that is nothing."""
    width, height = canvas[0] - sides[0] - sides[2], canvas[1] - sides[1] - sides[3]
    if width < 1 or height < 1:
        raise RequestError(
            "source.outpaint",
            f"borders {','.join(map(str, sides))} leave nothing of {canvas[0]}x{canvas[1]} for the picture",
        )
    return width, height
