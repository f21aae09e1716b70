"""Options about how a prompt is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.model_option import library_folder
from gesso.errors import GessoError
from gesso.request.checks import check_known
from gesso.request.request import ROWS

if TYPE_CHECKING:
    from gesso.frontends.front_end import FrontEnd
    from gesso.frontends.styles import Style

MIDJOURNEY = "midjourney"
STYLES_FILE = "styles.csv"

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


def syntax_of(syntax: str | None) -> dict[str, Any]:
    """The setting of a request. Raises RequestError for a syntax that nobody knows."""
    if syntax is None:
        return {}
    check_known("syntax", syntax, (*ROWS["syntax"].choices, MIDJOURNEY))
    return {"syntax": "a1111" if syntax == MIDJOURNEY else syntax}


def read_front_end(
    syntax: str | None,
    style: Sequence[str] | None,
    styles: Path | None,
    wildcards: Path | None,
    dynamic: bool,
) -> "FrontEnd":
    """What is done to the prompt before it is a request. Raises GessoError for files that are not there."""
    from gesso.frontends.front_end import FrontEnd, WildcardFolder, read_styles
    from gesso.frontends.styles import find_styles

    chosen: tuple[Style, ...] = ()
    if style:
        path = styles or library_folder().parent / STYLES_FILE
        if styles is None and not path.is_file():
            raise GessoError(f"--style: there is no {path}. Say where the styles are with --styles FILE")
        chosen = find_styles(style, read_styles(path))
    elif styles is not None:
        raise GessoError(f"--styles {styles}: name the styles to use with --style")
    lists: Any = WildcardFolder(wildcards) if wildcards is not None else {} if dynamic else None
    return FrontEnd(flags=syntax == MIDJOURNEY, styles=chosen, lists=lists)
