"""Options about how a prompt is written."""

from pathlib import Path
from typing import Annotated

import typer

SyntaxOption = Annotated[
    str | None,
    typer.Option(
        "--syntax",
        help="How the prompt is written: a1111, comfyui, compel, plain; midjourney with --ar and the like in it.",
    ),
]
StyleOption = Annotated[
    list[str] | None, typer.Option("--style", metavar="NAME", help="A style of --styles around the prompt; again.")
]
StylesOption = Annotated[
    Path | None,
    typer.Option("--styles", metavar="FILE", help="CSV of styles, by default styles.csv beside the library."),
]
WildcardsOption = Annotated[
    Path | None,
    typer.Option("--wildcards", metavar="FOLDER", help="Fill in {a|b}, and __name__ from name.txt of this folder."),
]
DynamicOption = Annotated[
    bool, typer.Option("--dynamic-prompts", help="Fill in {a|b}, drawn by the seed, also without a folder.")
]
