"""Pictures and files that tests drop on the page."""

import io
import json
import struct
from typing import Any

from PIL import Image, PngImagePlugin

A1111 = (
    "a blue bird, in a tree\nNegative prompt: frost\n"
    "Steps: 7, Sampler: Euler a, CFG scale: 2.5, Seed: 99, Size: 256x256, Model hash: 0123456789, Version: v1.9.0"
)


def png(parameters: str = "", size: tuple[int, int] = (64, 64), colour: str = "teal") -> bytes:
    """A picture, with what A1111 writes into its pictures."""
    notes = PngImagePlugin.PngInfo()
    if parameters:
        notes.add_text("parameters", parameters)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def embedding(metadata: dict[str, str] | None = None, value: float = 0.25) -> bytes:
    """A textual inversion for Stable Diffusion 1.x, of two tokens: the smallest model file there is."""
    data = struct.pack("<1536f", *([value] * 1536))
    header: dict[str, Any] = {"emb_params": {"dtype": "F32", "shape": [2, 768], "data_offsets": [0, len(data)]}}
    if metadata:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data
