"""`gesso preprocess NAME FILE`: see and keep the hint that a ControlNet would look at."""

import io
from pathlib import Path
from typing import Annotated

import typer

from gesso.cli.sizes import parse_size
from gesso.errors import GessoError


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="canny, softedge, lineart, scribble, ...; --list shows all.")
    ] = None,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The picture.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="PNG to write. Where left out: FILE's name and NAME."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Size of the hint; where left out, that of the picture."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter, such as low=50; again."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Say what there is and what can be set, then stop.")] = False,
) -> None:
    """Make the hint of a picture and write it as a PNG; no model is needed."""
    from gesso.hints.registry import canonical, preprocess
    from gesso.pipelines.picture_file import write_new
    from gesso.pipelines.source_images import read_image

    if listed:
        print("\n".join(describe()))
        return
    if name is None or file is None:
        raise GessoError(
            "NAME and FILE are missing. Try: gesso preprocess canny picture.png, or gesso preprocess --list"
        )
    name = canonical(name)
    output = output or Path(f"{file.stem}-{name}.png")
    if output.suffix.lower() != ".png":
        raise GessoError(f"{output}: a hint is written as PNG; let the name end in .png")
    wanted = parse_size(size, "--size") if size is not None else None
    hint = preprocess(name, read_image(file), wanted, parse_parameters(settings or []))
    buffer = io.BytesIO()
    hint.save(buffer, format="PNG")
    try:
        write_new(output, buffer.getvalue(), overwrite=overwrite)
    except FileExistsError:
        raise GessoError(f"{output}: is there already. Choose another --output, or --overwrite") from None
    print(output)


def describe() -> list[str]:
    """Lines that say what every preprocessor does and what can be set."""
    from gesso.hints.registry import PREPROCESSORS

    lines = []
    for name, row in PREPROCESSORS.items():
        lines.append(f"{name:14}{row.help}")
        for key, parameter in row.parameters.items():
            values = f"{parameter.default:g}, {parameter.low:g} to {parameter.high:g}"
            lines.append(f"  {key:12}{parameter.help} ({values})")
    return lines


def parse_parameters(settings: list[str]) -> dict[str, float]:
    """NAME=VALUE pairs as numbers. Raises GessoError."""
    found = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            found[name.strip()] = float(text)
        except ValueError:
            raise GessoError(f"--set {setting[:60]}: expected NAME=NUMBER, such as low=50") from None
    return found
