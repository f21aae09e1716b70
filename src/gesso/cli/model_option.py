"""Options that say which model, and whether one may be fetched."""

from typing import Annotated

import typer

MODEL_HELP = (
    "Name, file or folder of a model, part of its hash, or hf:organisation/name; `gesso models list` shows the names."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP)]
OptionalModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help=f"{MODEL_HELP} Where left out: gesso-mini.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Fetch nothing; use what is on this machine.")]
