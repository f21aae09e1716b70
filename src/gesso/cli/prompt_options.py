"""Options for prompt syntax, styles and wildcards."""

from pathlib import Path
from typing import Annotated

import typer

from gesso.request.request import ROWS
from gesso.terminal.field_options import default_of

SyntaxOption = Annotated[
    str | None,
    typer.Option(
        "--syntax",
        help="Prompt syntax: a1111, comfyui, compel, plain, or midjourney (with flags such as --ar).",
        show_default=default_of(ROWS["conventions.syntax"]),
    ),
]
StyleOption = Annotated[
    list[str] | None,
    typer.Option("--style", metavar="NAME", help="Apply a style of --styles to the prompt (repeatable)."),
]
StylesOption = Annotated[
    Path | None,
    typer.Option("--styles", metavar="FILE", help="CSV file of styles.", show_default="styles.csv next to the library"),
]
WildcardsOption = Annotated[
    Path | None,
    typer.Option(
        "--wildcards",
        metavar="FOLDER",
        help="Folder of wildcards: __name__ becomes a line of name.txt, {a|b} one of its options.",
    ),
]
DynamicOption = Annotated[
    bool,
    typer.Option("--dynamic-prompts", help="Dynamic prompts: {a|b} becomes one of its options, picked by the seed."),
]
