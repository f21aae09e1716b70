"""The environment of a picture: versions, device and dtype, which can change its last bits. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

MAX_TEXT = 4096  # characters of a text in a recipe

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Count = Annotated[int, Meta(ge=1, le=2**16)]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, device and dtype of one engine."""

    gesso: Text
    torch: Text
    python: Text
    device: Text  # "cpu x86_64 AVX512", "cuda NVIDIA H200"
    dtype: Text  # of the UNet: float32, bfloat16, float16, int8
    threads: _Count
    rows_per_call: _Count  # pictures that go through the networks together
    plugins: Annotated[tuple[Text, ...], Meta(max_length=256)] = ()  # whose plug-ins it took: "gesso-extras 1.2"
