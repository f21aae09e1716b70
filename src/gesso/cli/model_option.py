"""Options for the model, and for whether it may be downloaded."""

from typing import Annotated

import typer

MODEL_HELP = (
    "Model: a name, file, folder, part of its hash, or hf:organisation/name. `gesso models list` shows the names."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
OptionalModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP, show_default="gesso-mini")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Download nothing; use local files only.")]
