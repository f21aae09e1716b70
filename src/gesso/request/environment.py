"""What, besides the request and the weights, can change the last bits of a picture. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Versions, device and number format of one engine."""

    gesso: str
    torch: str
    python: str
    device: str  # "cpu x86_64 AVX512", "cuda NVIDIA H200"
    dtype: str  # of the UNet: float32, bfloat16, float16
    threads: int
    rows_per_call: int  # pictures that go through the networks together
    plugins: tuple[str, ...] = ()  # packages whose plug-ins the picture took, with their versions: "gesso-extras 1.2"
