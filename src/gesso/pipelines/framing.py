"""Placing a source picture on the canvas that is drawn, and back: resize modes, outpainting, only masked."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from gesso.families.base import Family
from gesso.hints.sizing import Size
from gesso.notices import Notice
from gesso.pipelines.source_images import drawable_size, fit
from gesso.request.checks import MAX_SIDE, RequestError
from gesso.request.request import MAX_PIXELS, ResolvedRequest, TextToImageRequest

MAX_COVER = 16  # how many times larger than its visible part a picture is resized

Box = tuple[int, int, int, int]  # left, top, right, bottom
Sides = tuple[int, int, int, int]  # pixels at the left, top, right, bottom


@dataclass(frozen=True)
class Placement:
    """Where a picture of any size lies on a canvas.

    canvas     width and height of what is drawn
    size       of the picture there
    left, top  of its corner; negative if it extends beyond the canvas, which crops it
    """

    canvas: Size
    size: Size
    left: int = 0
    top: int = 0

    @staticmethod
    def of(size: Size, canvas: Size, mode: str) -> "Placement":
        """A picture of a size on a canvas of another shape, with A1111's resize modes and rounding.

        stretch: each side by its own factor. crop: it covers the canvas and is cropped. fill: all of it is visible, and
        the rest of the canvas is filled.
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
        """The picture on its canvas; around it, the pixels of its edge are repeated."""
        left, top, right, bottom = self.visible
        part = left - self.left, top - self.top, right - self.left, bottom - self.top
        (width, height), area = self.size, (right - left) * (bottom - top)
        if width * height <= MAX_COVER * area:  # resize, then crop, as other tools do; this gives the same pixels
            visible = fit(image, width, height).crop(part)
        else:  # a sliver that covers the canvas is cropped to a tiny part, so only that part is resized
            across, down = image.width / width, image.height / height
            box = (part[0] * across, part[1] * down, part[2] * across, part[3] * down)
            visible = image.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=box)
        return extend(visible, (left, top, self.canvas[0] - right, self.canvas[1] - bottom))

    def back(self, drawn: Image.Image, size: Size) -> Image.Image:
        """The drawn canvas, cropped to the picture and resized to its own size; for a placement that crops nothing."""
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
    """The mask of an outpainting: white in borders of these widths and `overlap` pixels into the picture, so that the
    blurred edge lies within the picture; black elsewhere."""
    (wide, high), (left, top, right, bottom) = canvas, (side + overlap if side else 0 for side in sides)
    levels = np.full((high, wide), 255, dtype=np.uint8)
    levels[top : max(high - bottom, top), left : max(wide - right, left)] = 0
    return Image.fromarray(levels)


def masked_region(mask: Image.Image, padding: int, canvas: Size) -> Box:
    """Only masked: the bounding box of the mask with padding, expanded to the shape of the canvas within the picture.

    Raises RequestError if the mask is black.
    """
    bounds = mask.getbbox()
    if bounds is None:
        raise RequestError("mask", "the mask is entirely black, so nothing would be redrawn. Paint that part white")
    width, height = mask.size
    left, right = max(bounds[0] - padding, 0), min(bounds[2] + padding, width)
    top, bottom = max(bounds[1] - padding, 0), min(bounds[3] + padding, height)
    wide, high = canvas
    if (right - left) * high > (bottom - top) * wide:
        top, bottom = _grown(top, bottom, (right - left) * high // wide, height)
    else:
        left, right = _grown(left, right, (bottom - top) * wide // high, width)
    return left, top, right, bottom


def _grown(low: int, high: int, length: int, limit: int) -> tuple[int, int]:
    """An interval expanded to that length, shifted to stay within 0 .. limit, shortened if it must be."""
    length = min(max(length, high - low), limit)
    start = min(max(low - (length - (high - low)) // 2, 0), limit - length)
    return start, start + length


def with_size(request: TextToImageRequest, family: Family, image: Image.Image | None) -> TextToImageRequest:
    """The request with a size from its source picture, unless it has one; an upscaler model always takes the picture's.

    Outpainting borders are widened to the model's multiple. For "only masked", the size is the model's own.
    """
    if image is None or (request.mask.area == "masked" and family.concat != "upscale"):
        return request
    width, height = drawable_size(image, family.size_multiple)
    if family.concat == "upscale":
        scale = family.vae.downscale
        width, height = image.width * scale, image.height * scale
        for name, side, own in (("width", width, request.width), ("height", height, request.height)):
            if own not in (None, side):
                raise RequestError(name, f"{name} {own}: this model upscales the picture's {side // scale} to {side}")
    elif request.width is not None or request.height is not None:
        return request
    elif request.source.outpaint is not None:
        return _with_borders(request, family.size_multiple, image)
    return replace(request, width=width, height=height)


def _with_borders(request: TextToImageRequest, multiple: int, image: Image.Image) -> TextToImageRequest:
    """The size of a picture with its outpainting borders, which are widened until the model can draw the whole."""
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
            raise RequestError(
                "source.outpaint", f"{name} {own} with borders is {whole}, at most {MAX_SIDE} is allowed"
            )
        sides.append((whole, before, after))
    (width, left, right), (height, top, bottom) = sides
    source = replace(request.source, outpaint=(left, top, right, bottom))
    return replace(request, width=width, height=height, source=source)


def finished_size(request: ResolvedRequest, image: Image.Image | None) -> Size | None:
    """Width and height of the finished picture if hires fix, outpainting or "only masked" make it differ from what is
    drawn first; else None.
    """
    hires = request.hires
    if hires is not None and hires.width is not None and hires.height is not None:
        return hires.width, hires.height
    if request.mask.area == "masked" and image is not None:
        return image.size
    return (request.width, request.height) if request.source.outpaint is not None else None


def size_notice(request: ResolvedRequest, family: Family) -> Notice | None:
    """A notice about a picture of a size far from the one that the model was trained at; None near it.

    A model with a few objects knows its own size alone; others take what has up to twice as many pixels, or half.
    """
    if request.tiles.size is not None or family.max_level is not None or family.is_refiner:
        return None
    native = family.output_size
    share = request.width * request.height / native**2
    if (request.width, request.height) == (native, native) or (not family.objects and 0.5 <= share <= 2):
        return None
    better = f"use `size={native}x{native}`" + (", and enlarge the picture with `hires`" if share > 1 else "")
    if request.source.outpaint is not None:
        better = "use smaller borders"
    return Notice(
        f"{request.width}x{request.height} is not a size that this model was trained at, which spoils pictures. "
        f"Its native size is {native}x{native}: {better}",
        code="size_not_native",
        field="width",
        data={"width": request.width, "height": request.height, "native": native},
    )


def inside_of(canvas: Size, sides: Sides) -> Size:
    """The size that borders leave for the picture on a canvas. Raises RequestError if they leave nothing."""
    width, height = canvas[0] - sides[0] - sides[2], canvas[1] - sides[1] - sides[3]
    if width < 1 or height < 1:
        raise RequestError(
            "source.outpaint",
            f"borders {','.join(map(str, sides))} leave no room for the picture in {canvas[0]}x{canvas[1]}",
        )
    return width, height
