"""Options about pictures that go in, as people write them."""

from typing import Annotated

import typer

from gesso.errors import GessoError

_SIDES = ("left", "top", "right", "bottom")

MaskInvertOption = Annotated[
    bool, typer.Option("--mask-invert", help="The mask is the other way round: where it is black is drawn again.")
]


def parse_sides(text: str) -> tuple[int, int, int, int]:
    """ "64" at each side, "right=128,top=8" or "left,top,right,bottom" in numbers. Raises GessoError."""
    parts = [part.strip().lower() for part in text.replace(" ", ",").split(",") if part.strip()]
    try:
        if not any("=" in part for part in parts):
            numbers = [int(part) for part in parts]
            left, top, right, bottom = numbers * 4 if len(numbers) == 1 else numbers
            return left, top, right, bottom
        found = dict.fromkeys(_SIDES, 0)
        for part in parts:
            side, _, pixels = part.partition("=")
            if side not in found:
                raise ValueError(side)
            found[side] = int(pixels)
        return found["left"], found["top"], found["right"], found["bottom"]
    except ValueError:
        raise GessoError(
            f"--outpaint {text[:60]}: expected pixels, such as 64, right=128 or left=32,top=64,right=0,bottom=8"
        ) from None
