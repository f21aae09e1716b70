"""`gesso models info MODEL`: what a file is and what is in it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gesso.checkpoints.detect import Description

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

MAX_VALUE = 300  # characters of a metadata value; some hold whole pictures


@app.callback()
def models() -> None:
    """Look into model files."""


@app.command()
def info(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="gesso-mini, a .safetensors file of any kind, or a diffusers folder.")
    ] = "gesso-mini",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a file is: layout, family, parts, sizes, hash, metadata, and what it can draw where it knows."""
    from gesso.checkpoints.detect import describe
    from gesso.runtime.engine import find_model

    found = describe(find_model(model))
    print(json.dumps(_table(found), ensure_ascii=False) if as_json else "\n".join(_lines(found)))


def _table(found: "Description") -> dict[str, Any]:
    return {
        "path": str(found.path),
        "layout": found.layout,
        "what": found.kind.what,
        "family": found.family,
        "tensors": found.num_tensors,
        "parameters": found.num_params,
        "bytes": found.nbytes,
        "parts": {
            part.name: {"tensors": part.num_tensors, "parameters": part.num_params, "dtypes": part.dtypes}
            for part in found.parts
        },
        "files": [
            {"path": str(file.path), "bytes": file.nbytes, "sha256": file.sha256, "metadata": _plain(file.metadata)}
            for file in found.files
        ],
        "objects": _objects(found),
    }


def _lines(found: "Description") -> list[str]:
    loads = found.family or f"none that gesso loads: {found.kind.advice}"
    lines = [
        f"path        {found.path}",
        f"looks like  {found.kind.what}",
        f"layout      {found.layout}",
        f"family      {loads}",
        f"tensors     {found.num_tensors:,}",
        f"parameters  {found.num_params:,}",
        f"size        {found.nbytes:,} bytes",
    ]
    lines += [
        f"  {part.name:<10}{part.num_params:>14,} parameters in {part.num_tensors:,} tensors, {', '.join(part.dtypes)}"
        for part in found.parts
    ]
    for file in found.files:
        name = f"{file.path.name}: " if len(found.files) > 1 else ""
        lines.append(f"sha256      {name}{file.sha256}")
        lines.append(f"model hash  {name}{file.sha256[:10]}")
    for file in found.files:
        lines += [f"{key}: {value}" for key, value in sorted(_plain(file.metadata).items())]
    if objects := _objects(found):
        lines.append(f"draws {len(objects)} objects: {', '.join(objects)}")
    return [_printable(line) for line in lines]


def _plain(metadata: Any) -> dict[str, str]:
    """The metadata that people read, cut to a length that they can; our own configuration is shown in other lines."""
    return {
        key: value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]}... ({len(value)} characters)"
        for key, value in metadata.items()
        if not key.startswith("gesso.")
    }


def _objects(found: "Description") -> list[str]:
    """What a model with a vocabulary of its own can draw; empty for others."""
    from gesso.checkpoints.native import load_native
    from gesso.families.gesso_mini import family_from_config

    if found.layout != "native":
        return []
    return list(family_from_config(load_native(found.path).config, found.path).objects)


def _printable(line: str) -> str:
    """Metadata come from strangers: control characters must not reach the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
