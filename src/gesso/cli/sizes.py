"""Sizes such as 512x768."""

import re

from gesso.errors import GessoError


def parse_size(text: str, option: str) -> tuple[int, int]:
    """Width and height from "512x768" or, for a square, "512". Raises GessoError, which names the option."""
    match = re.fullmatch(r"(\d{1,6})(?:\s*[x×*,:]\s*(\d{1,6}))?", text.strip().lower())
    if not match:
        raise GessoError(
            f"{option} {text[:40]}: expected WIDTHxHEIGHT in pixels, such as 512x768, or one number",
            code="invalid_value",
            field=option.lstrip("-"),
        )
    return int(match[1]), int(match[2] or match[1])
