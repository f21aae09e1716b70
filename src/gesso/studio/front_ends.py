"""From options to a front end: prompt syntax, styles and wildcards."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.errors import GessoError
from gesso.request.checks import check_known
from gesso.studio.home import styles_file
from gesso.text.dialects import DIALECTS

if TYPE_CHECKING:
    from gesso.frontends.front_end import FrontEnd
    from gesso.frontends.styles import Style

MIDJOURNEY = "midjourney"  # a syntax of the front end alone: what comes out is A1111's


def syntax_settings(syntax: str | None) -> dict[str, Any]:
    """The fields of a request for a syntax by its name, by their paths. Raises RequestError for an unknown one."""
    if syntax is None:
        return {}
    if syntax == MIDJOURNEY:
        return {"conventions.syntax": "a1111"}
    if syntax not in DIALECTS:
        check_known("syntax", syntax, (*DIALECTS, MIDJOURNEY))
    return {"conventions.syntax": syntax}


def open_front_end(
    syntax: str | None = None,
    style: Sequence[str] | None = None,
    styles: Path | None = None,
    wildcards: Path | None = None,
    dynamic: bool = False,
) -> "FrontEnd":
    """The front end that applies flags, styles and wildcards to a prompt.

    syntax     midjourney reads flags in the prompt; any other leaves them as text
    style      names of the styles to apply
    styles     CSV that has them; None: the user's, next to the library
    wildcards  folder of lists for __name__: .txt, .yaml and .json
    dynamic    fill in {a|b} without a folder, too
    Raises GessoError for files that are not there and for unknown styles.
    """
    from gesso.frontends.front_end import FrontEnd, WildcardFolder, read_styles
    from gesso.frontends.styles import find_styles

    chosen: tuple[Style, ...] = ()
    if style:
        path = styles or styles_file()
        if styles is None and not path.is_file():
            raise GessoError(
                f"`style`: no style file {path}. Give one with `styles=FILE`",
                code="styles_missing",
                field="styles",
                data={"path": str(path)},
            )
        chosen = find_styles(style, read_styles(path))
    elif styles is not None:
        raise GessoError(f"`styles` {styles}: choose styles with `style`", code="style_missing", field="style")
    lists: Any = WildcardFolder(wildcards) if wildcards is not None else {} if dynamic else None
    return FrontEnd(flags=syntax == MIDJOURNEY, styles=chosen, lists=lists)
