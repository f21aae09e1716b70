"""Options that name adapters, and the finder of all files that a request may name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gesso.cli.model_option import open_library
from gesso.errors import GessoError
from gesso.request.parts import LoraUse

if TYPE_CHECKING:
    from gesso.library.finder import LibraryFinder
    from gesso.request.finder import Finder, Kind
    from gesso.request.recipe import Recipe

LoraOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="LORA[:WEIGHT[:TEXT]]",
        help="Name or file of a LoRA, with its strength in the UNet and in the text model; 1@0,0.2@0.6 changes over "
        "the steps. Again for several.",
    ),
]
EmbeddingOption = Annotated[
    list[Path] | None,
    typer.Option("--embedding", metavar="FILE", help="A learned word, called in the prompt by its file's name; again."),
]
Given = dict["Kind", dict[str, Path]]


def parse_loras(texts: Sequence[str]) -> tuple[tuple[LoraUse, ...], dict[str, Path]]:
    """ "style:0.8", "files/style.safetensors:0.8:0.5" -> the uses, and the files by name. Raises GessoError."""
    uses: list[LoraUse] = []
    files: dict[str, Path] = {}
    for text in texts:
        name, weight, in_text = _apart(text)
        if (path := _file(name)) is not None:
            name = _add(files, path, "--lora")
        uses.append(_use(name, weight, in_text))
    return tuple(uses), files


def _apart(text: str) -> tuple[str, str, str | None]:
    """Name, weight and weight in the text model; a part that begins like a number is a weight."""
    name, weights = text, list[str]()
    while len(weights) < 2 and _file(name) is None:
        before, colon, last = name.rpartition(":")
        if not colon or not before or not (last[:1].isdigit() or last[:1] in "+-."):
            break
        weights.insert(0, last)
        name = before
    return name, weights[0] if weights else "1", weights[1] if len(weights) > 1 else None


def _use(name: str, weight: str, in_text: str | None) -> LoraUse:
    from gesso.text.grammar import read_points

    points = read_points(weight, name)
    changes = len(points) > 1
    first = points[0][1]
    text = first if in_text is None else read_points(in_text, name)[0][1]
    return LoraUse(name=name, weight=1.0 if changes else first, text_weight=text, points=points if changes else ())


def _file(name: str) -> Path | None:
    path = Path(name)
    try:
        return path if "\0" not in name and path.is_file() else None
    except OSError:
        return None


def _add(files: dict[str, Path], path: Path, option: str) -> str:
    name = path.stem
    if files.setdefault(name, path).resolve() != path.resolve():
        raise GessoError(f"{option} {path}: {files[name]} has the same name; rename one of them")
    return name


def parse_embeddings(paths: Sequence[Path]) -> dict[str, Path]:
    """Files of learned words by name. Raises GessoError."""
    files: dict[str, Path] = {}
    for path in paths:
        if _file(str(path)) is None:
            raise GessoError(f"--embedding {path}: no such file")
        _add(files, path, "--embedding")
    return files


def parse_upscaler(text: str | None) -> tuple[str | None, dict[str, Path]]:
    """ "lanczos", "files/4x.pth" -> what the request calls it, and its file by that name, where it is one."""
    path = None if text is None else _file(text)
    return (text, {}) if path is None else (path.stem, {path.stem: path})


def make_finder(given: "Given") -> "LibraryFinder":
    """What was given, what gesso carries, and the user's library."""
    from gesso.library.finder import LibraryFinder

    return LibraryFinder(open_library(), given)


# What says where a file of a kind is, in `gesso replay`.
_OPTIONS = {
    "lora": "--lora",
    "embedding": "--embedding",
    "control": "--control",
    "image_encoder": "--encoder",
    "upscaler": "--upscaler",
}


def finder_of_recipe(recipe: "Recipe", given: "Given", picture: Path) -> "Finder":
    """The files that a recipe names, and no others. Raises GessoError for one that is not here."""
    from gesso.request.finder import NamedFiles

    finder = make_finder(given)
    files: dict[str, dict[str, Path]] = {}
    for extra in recipe.extras:
        path = finder.of_recipe(extra)
        if path is None:
            option = _OPTIONS.get(extra.kind)
            raise GessoError(
                f"{picture}: drawn with the {extra.kind.replace('_', ' ')} {extra.name[:100]!r} "
                f"(sha256 {extra.sha256[:10]}...), which is not here"
                + (f". Say where it is with {option}" if option else ". It is of a newer gesso; update")
            )
        files.setdefault(extra.kind, {})[extra.name] = path
    return NamedFiles(files)  # type: ignore[arg-type]  # kinds of a newer version find nothing
