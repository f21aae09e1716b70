"""Options for where and how a model computes."""

from typing import Annotated

import typer

DEVICES, DTYPES = "auto, cpu, cuda, cuda:1 or mps", "auto, float32, bfloat16, float16 or int8"
DeviceOption = Annotated[str, typer.Option("--device", help=f"Device: {DEVICES}.")]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help=f"Compute dtype: {DTYPES}. auto takes the faster, within rounding.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=1024, help="Number of CPU threads.", show_default="as PyTorch chooses"),
]
