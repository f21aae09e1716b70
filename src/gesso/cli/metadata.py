"""`gesso metadata`: show, remove and copy the settings in pictures of any tool."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.targets import put
from gesso.errors import GessoError, one_line
from gesso.terminal.exit_codes import EXIT_FAILED
from gesso.terminal.explaining import as_known
from gesso.terminal.help import App
from gesso.terminal.json_lines import JsonOption, error_values, json_line, notice_values
from gesso.terminal.results import AbsolutePathsOption, path_values, shown
from gesso.terminal.words import in_options, line_of

if TYPE_CHECKING:
    from gesso.metadata.picture_metadata import PictureMetadata

app = App()


@app.callback()
def _group() -> None:
    """Show, remove and copy the settings in pictures.

    Examples:
        gesso metadata show picture.png
        gesso metadata strip picture.png
        gesso metadata copy original.png edited.png
        gesso generate --from picture.png --seed -1
    """


OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Output file.", show_default="beside the input, see above"),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")]


@app.command("show")
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="PNG, JPEG, WebP or AVIF files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the texts as stored in the file.")] = False,
) -> None:
    """Show the settings stored in pictures.

    Reads pictures of gesso, A1111, SD.Next, stable-diffusion.cpp, ComfyUI, SwarmUI, Fooocus, InvokeAI, NovelAI, Easy
    Diffusion and Draw Things. Exits with 1 if a picture has no settings that gesso can read, and with 2 if a file is
    missing, damaged or no picture; the other files are still shown.

    Examples:
        gesso metadata show picture.png
        gesso metadata show *.png --json
        gesso metadata show picture.png --raw
        gesso generate --from picture.png --seed -1
    """
    from gesso.metadata.carriers import read_texts
    from gesso.metadata.reading import read_metadata

    codes = {0}
    for path in files:
        try:
            if raw:
                texts = dict(read_texts(path).texts)
                values = {**path_values(path, absolute=False), "texts": texts}
                lines = [json_line(values)] if as_json else _raw(texts)
            else:
                metadata = read_metadata(path)
                lines = [json_line(_json(path, metadata))] if as_json else _lines(metadata)
        except (GessoError, OSError) as plain:
            error, code = as_known(plain)
            codes.add(EXIT_FAILED if error.code == "no_settings" else code)
            typer.echo(f"error: {line_of(error)}", err=True)
            if as_json:
                print(json_line(path_values(path, absolute=False) | {"error": error_values(error)}))
            continue
        if len(files) > 1 and not as_json:
            print(f"{one_line(str(path))}:")
        print("\n".join(lines))
    if any(codes):
        raise typer.Exit(max(codes))


@app.command("strip")
def strip(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="PNG, JPEG or WebP files.")],
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove all metadata from pictures.

    Removes settings, EXIF (including GPS), XMP, comments and text hidden in the pixels. Keeps the pixel data, the
    orientation and the colour profile.
    Writes NAME-stripped next to the file, or replaces the file with --overwrite and no --output.

    Examples:
        gesso metadata strip picture.png
        gesso metadata strip picture.png -o clean.png
        gesso metadata strip *.jpg --overwrite
        gesso metadata strip picture.png -o clean.png --overwrite
    """
    from gesso.metadata.editing import without_metadata

    if output is not None and len(files) > 1:
        raise GessoError("--output takes one file, but several are given; leave it out", code="usage")
    for path in files:
        stripped = without_metadata(path)  # a folder is refused here, before its name is taken apart
        _check_ending(output, stripped)
        target = output or (path if overwrite else path.with_stem(f"{path.stem}-stripped"))
        put(target, stripped, overwrite=overwrite)
        _print(path, target, absolute=absolute_paths, as_json=as_json)


@app.command("copy")
def copy(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="Picture to copy the settings from.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="Picture to copy them to: PNG, JPEG or WebP.")],
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy the settings of one picture to another.

    They replace the other picture's own. Writes NAME-with-settings next to TO, or replaces TO with --overwrite and no
    --output.

    Examples:
        gesso metadata copy original.png edited.png
        gesso metadata copy original.png edited.png -o both.png
        gesso metadata copy original.png edited.png --overwrite
        gesso metadata show edited-with-settings.png
    """
    from gesso.metadata.carriers import read_texts
    from gesso.metadata.editing import with_metadata

    texts = read_texts(source)
    if not texts.texts:
        raise GessoError(f"{source}: has no settings or other texts to copy", code="no_settings")
    written = with_metadata(target, texts)
    _check_ending(output, written)
    path = output or (target if overwrite else target.with_stem(f"{target.stem}-with-settings"))
    put(path, written, overwrite=overwrite)
    _print(target, path, absolute=absolute_paths, as_json=as_json)


def _check_ending(output: Path | None, data: bytes) -> None:
    """Raises GessoError for a name of another format than the picture keeps."""
    from gesso.metadata.editing import format_of
    from gesso.pictures.picture_file import FORMATS

    name = format_of(data)
    endings = [ending for ending, each in FORMATS.items() if each == name]
    if output is not None and output.suffix and output.suffix.lower() not in endings:
        raise GessoError(
            f"--output {output}: the picture stays a {name}; give a name ending in {' or '.join(endings)}",
            code="usage",
            field="output",
        )


def _print(source: Path, path: Path, *, absolute: bool, as_json: bool) -> None:
    values = path_values(path, absolute=absolute) | {"source": str(source)}
    print(json_line(values) if as_json else shown(path, absolute=absolute), flush=True)


def _json(path: Path, metadata: "PictureMetadata") -> dict[str, Any]:
    return {
        **path_values(path, absolute=False),
        "tool": metadata.tool,
        "model": metadata.model,
        "model_hash": metadata.model_hash,
        "request": metadata.request.to_dict(),
        **notice_values(metadata.notices),
        "pairs": dict(metadata.pairs),
        "recipe": json.loads(metadata.recipe.to_json()) if metadata.recipe is not None else None,
    }


def _lines(metadata: "PictureMetadata") -> list[str]:
    """The fields that are set, one per line."""
    rows: list[tuple[str, Any]] = [("tool", metadata.tool)]
    if metadata.model:
        rows.append(("model", f"{metadata.model} [{metadata.model_hash}]" if metadata.model_hash else metadata.model))
    for name, value in _set_fields(metadata.request.to_dict()).items():
        if name not in ("schema", "version"):
            rows.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    if metadata.recipe is not None:
        environment = metadata.recipe.environment
        rows.append(("made with", f"gesso {environment.gesso}, torch {environment.torch}, {environment.dtype}"))
    return [f"{name:<27}{_printable(str(value))}" for name, value in rows] + [
        f"note: {in_options(_printable(line))}" for line in metadata.notices
    ]


def _set_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that are left open, and without the parts (source, variation, ...) that have no other."""
    parts = {name: _set_fields(value) if isinstance(value, dict) else value for name, value in values.items()}
    return {name: value for name, value in parts.items() if value is not None and value not in ("", (), [], {})}


def _raw(texts: dict[str, str]) -> list[str]:
    return [f"{_printable(name)}: {_printable(text)}" for name, text in texts.items()] or ["no texts"]


def _printable(text: str) -> str:
    """On one line, nothing that a terminal obeys."""
    return one_line(text)
