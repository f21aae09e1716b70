"""`gesso metadata`: what pictures of any tool say about how they were made; taken out, and carried over."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.targets import put
from gesso.cli.words import in_options
from gesso.errors import GessoError, one_line

if TYPE_CHECKING:
    from gesso.metadata.found import PictureMetadata

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where the new file goes; by default see below.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")]


@app.command("show")
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PNG, JPEG, WebP or AVIF.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The texts as they stand in the file.")] = False,
) -> None:
    """Show the settings that a picture of gesso, A1111, ComfyUI, InvokeAI or NovelAI carries.

    Every file is looked at. Ends with 1 where one of them carries no settings that gesso reads.
    """
    from gesso.metadata.carriers import read_texts
    from gesso.metadata.reading import read_metadata

    failed = 0
    for path in files:
        try:
            if raw:
                texts = dict(read_texts(path).texts)
                lines = (
                    [json.dumps({"path": str(path), "texts": texts}, ensure_ascii=False)] if as_json else _raw(texts)
                )
            else:
                found = read_metadata(path)
                lines = [json.dumps(_json(path, found), ensure_ascii=False)] if as_json else _lines(found)
        except GessoError as error:
            failed += 1
            typer.echo(f"error: {error.one_line}", err=True)
            continue
        if len(files) > 1 and not as_json:
            print(f"{one_line(str(path))}:")
        print("\n".join(lines))
    if failed:
        raise typer.Exit(1)


@app.command("strip")
def strip(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PNG, JPEG or WebP.")],
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Take everything out of a file but pixels and colours: settings, EXIF (places too), XMP, comments.

    What is stored of the pixels stays byte by byte. Writes NAME-stripped beside the file; with --overwrite and no
    --output the file itself is replaced.
    """
    from gesso.metadata.editing import without_metadata

    if output is not None and len(files) > 1:
        raise GessoError("--output is for one file; leave it out for several")
    for path in files:
        target = output or (path if overwrite else path.with_stem(f"{path.stem}-stripped"))
        _write(target, without_metadata(path), overwrite=overwrite)


@app.command("copy")
def copy(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The picture that carries settings.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="The picture that is to carry them: PNG, JPEG or WebP.")],
    output: OutputOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Carry the settings of one picture over to another, in place of what that one says of itself.

    Writes NAME-with-settings beside TO; with --overwrite and no --output, TO itself is replaced.
    """
    from gesso.metadata.carriers import read_texts
    from gesso.metadata.editing import with_metadata

    texts = read_texts(source)
    if not texts.texts:
        raise GessoError(f"{source}: carries no texts that could be copied")
    path = output or (target if overwrite else target.with_stem(f"{target.stem}-with-settings"))
    _write(path, with_metadata(target, texts), overwrite=overwrite)


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    put(path, data, overwrite=overwrite)
    print(one_line(str(path)))


def _json(path: Path, found: "PictureMetadata") -> dict[str, Any]:
    return {
        "path": str(path),
        "tool": found.tool,
        "model": found.model,
        "model_hash": found.model_hash,
        "request": found.request.to_dict(),
        "notices": found.notices,
        "pairs": dict(found.pairs),
        "recipe": json.loads(found.recipe.to_json()) if found.recipe is not None else None,
    }


def _lines(found: "PictureMetadata") -> list[str]:
    """What is set, one field a line; what is open is left out."""
    rows: list[tuple[str, Any]] = [("tool", found.tool)]
    if found.model:
        rows.append(("model", f"{found.model} [{found.model_hash}]" if found.model_hash else found.model))
    for name, value in found.request.to_dict().items():
        if name not in ("schema", "version") and value not in (None, "", []):
            rows.append((name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    if found.recipe is not None:
        environment = found.recipe.environment
        rows.append(("made with", f"gesso {environment.gesso}, torch {environment.torch}, {environment.dtype}"))
    return [f"{name:<27}{_printable(str(value))}" for name, value in rows] + [
        f"note: {in_options(_printable(line))}" for line in found.notices
    ]


def _raw(texts: dict[str, str]) -> list[str]:
    return [f"{_printable(name)}: {_printable(text)}" for name, text in texts.items()] or ["no texts"]


def _printable(text: str) -> str:
    """On one line, nothing that a terminal obeys."""
    return one_line(text)
