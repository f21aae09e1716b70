"""Options for image to image, inpainting and hires fix."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from gesso.errors import GessoError
from gesso.request.parts import HiresPass
from gesso.request.request import TextToImageRequest

_SIDES = ("left", "top", "right", "bottom")

ImageOption = Annotated[
    Path | None,
    typer.Option("--image", "--init-image", "-i", metavar="FILE", help="Picture to start from (image to image)."),
]
MaskOption = Annotated[
    Path | None, typer.Option("--mask", metavar="FILE", help="Inpainting mask: white areas are redrawn.")
]
MaskInvertOption = Annotated[bool, typer.Option("--mask-invert", help="Invert the mask: black areas are redrawn.")]


def check_blurred(request: TextToImageRequest, mask: Path | None) -> None:
    """Whether there is an edge that --mask-blur softens; a request itself has a blur without one. Raises GessoError."""
    if mask is None and request.mask.image is None and request.source.outpaint is None:
        raise GessoError("--mask-blur needs a mask; give one with --mask, or use --outpaint", code="mask_missing")


def parse_sides(text: str) -> tuple[int, int, int, int]:
    """ "64" at each side, "right=128,top=8" or "left,top,right,bottom" in numbers. Raises GessoError."""
    parts = [part.strip().lower() for part in text.replace(" ", ",").split(",") if part.strip()]
    try:
        if not any("=" in part for part in parts):
            numbers = [int(part) for part in parts]
            left, top, right, bottom = numbers * 4 if len(numbers) == 1 else numbers
            return left, top, right, bottom
        sides = dict.fromkeys(_SIDES, 0)
        for part in parts:
            side, _, pixels = part.partition("=")
            if side not in sides:
                raise ValueError(side)
            sides[side] = int(pixels)
        return sides["left"], sides["top"], sides["right"], sides["bottom"]
    except ValueError:
        raise GessoError(
            f"--outpaint {text[:60]}: expected pixels, such as 64, right=128 or left=32,top=64,right=0,bottom=8",
            code="invalid_value",
        ) from None


def parse_hires(text: str | None, **values: Any) -> HiresPass | None:
    """ "2", "1024x768", "1024x" or "x768", and the other settings of a second pass. Raises GessoError.

    None without a size, and then no setting may be given either.
    """
    if text is None:
        first = next((name for name, value in values.items() if value is not None), None)
        if first is not None:
            option = {"num_steps": "steps", "guidance_scale": "guidance"}.get(first, first).replace("_", "-")
            raise GessoError(
                f"--hires-{option} needs hires fix: set its size with --hires, such as --hires 2", code="usage"
            )
        return None
    plain = text.strip().lower()
    size = re.fullmatch(r"(\d{1,6})?\s*[x\u00d7]\s*(\d{1,6})?", plain)
    if size and (size[1] or size[2]):
        width, height = (int(side) if side else None for side in size.groups())
        return HiresPass(width=width, height=height, **values)
    if re.fullmatch(r"\d{1,4}(\.\d{1,6})?", plain):
        return HiresPass(scale=float(plain), **values)
    raise GessoError(
        f"--hires {text[:40]}: expected a factor such as 2 or 1.5, or a size such as 1024x768 or 1024x",
        code="invalid_value",
    )
