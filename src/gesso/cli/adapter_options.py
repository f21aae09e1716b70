"""Options for LoRA, embeddings and upscalers, given by name or as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gesso.errors import GessoError
from gesso.request.parts import LoraUse
from gesso.studio.files import add_file

LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="LORA[:WEIGHT[:TEXT]]",
        help="LoRA by name or file, with its strength in the UNet and in the text encoder, such as style:0.8:0.5; "
        "style:1@0,0.2@0.6 changes the strength over the steps (repeatable).",
    ),
]
EmbeddingOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--embedding",
        metavar="FILE",
        help="Textual inversion embedding, used in the prompt by its file name (repeatable).",
    ),
]


def parse_loras(texts: Sequence[str]) -> tuple[tuple[LoraUse, ...], dict[str, Path]]:
    """ "style:0.8", "files/style.safetensors:0.8:0.5" -> the uses, and the files by name. Raises GessoError."""
    uses: list[LoraUse] = []
    files: dict[str, Path] = {}
    for text in texts:
        name, weight, in_text = _split_weights(text)
        if not name.strip():
            raise GessoError("--lora is empty, expected a name or a file", code="invalid_name", field="loras")
        if (path := _file(name)) is not None:
            name = add_file(files, path, "loras")
        uses.append(_use(name, weight, in_text))
    return tuple(uses), files


def _split_weights(text: str) -> tuple[str, str, str | None]:
    """Name, weight and weight in the text encoder; a part that begins like a number is a weight."""
    name, weights = text, list[str]()
    while len(weights) < 2 and _file(name) is None:
        before, colon, last = name.rpartition(":")
        if not colon or not before:
            break
        if not (last[:1].isdigit() or last[:1] in "+-."):
            if _file(before) is not None:
                raise GessoError(
                    f"--lora {text[:80]}: the weight is {last[:40]!r}, expected a number", code="invalid_value"
                )
            break
        weights.insert(0, last)
        name = before
    return name, weights[0] if weights else "1", weights[1] if len(weights) > 1 else None


def _use(name: str, weight: str, in_text: str | None) -> LoraUse:
    from gesso.text.grammar import read_points
    from gesso.text.prompt import PromptError

    try:
        points = read_points(weight, name)
        first = points[0][1]
        text = first if in_text is None else read_points(in_text, name)[0][1]
    except PromptError as error:
        raise GessoError(error.message.replace("prompt:", "--lora:", 1), code=error.code) from None
    changes = len(points) > 1
    return LoraUse(name=name, weight=1.0 if changes else first, text_weight=text, points=points if changes else ())


def _file(name: str) -> Path | None:
    path = Path(name)
    try:
        return path if "\0" not in name and path.is_file() else None
    except OSError:
        return None


def parse_embeddings(paths: Sequence[Path]) -> dict[str, Path]:
    """Files of textual inversion embeddings by name. Raises GessoError."""
    files: dict[str, Path] = {}
    for path in paths:
        if _file(str(path)) is None:
            raise GessoError(
                f"--embedding {path}: no such file", code="missing", field="embeddings", data={"path": str(path)}
            )
        add_file(files, path, "embeddings")
    return files


def parse_upscaler(text: str | None) -> tuple[str | None, dict[str, Path]]:
    """ "lanczos", "files/4x.pth" -> what the request calls it, and its file by that name, where it is one."""
    path = None if text is None else _file(text)
    return (text, {}) if path is None else (path.stem, {path.stem: path})
