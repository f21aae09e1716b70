"""The files that a request names besides the model: by name, from a path, or as a recipe recorded them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.request.finder import Kind, NamedFiles

if TYPE_CHECKING:
    from gesso.library.finder import LibraryFinder
    from gesso.request.recipe import Recipe

# Files by kind and by the name that a request has for them.
Files = Mapping[Kind, Mapping[str, Path]]

# The argument of a replay that says where a file of a kind is.
FIELD_OF_KIND: Mapping[str, str] = {
    "lora": "loras",
    "embedding": "embeddings",
    "control": "controls",
    "image_encoder": "encoders",
    "upscaler": "upscalers",
}


def add_file(files: dict[str, Path], path: Path, field: str) -> str:
    """Enter a file under its name without the ending, and return that name.

    field  that brought the file, for the error. Raises GessoError where another file has the name.
    """
    name = path.stem
    if files.setdefault(name, path).resolve() != path.resolve():
        raise GessoError(
            f"`{field}` {path}: {files[name]} has the same name; rename one of them",
            code="file_name_twice",
            field=field,
            data={"path": str(path), "other": str(files[name])},
        )
    return name


def encoder_name(path: Path) -> str:
    """What a request calls an image encoder; those of the transformers library are folders."""
    return path.name if path.is_dir() else path.stem


def recipe_files(recipe: "Recipe", finder: "LibraryFinder", where: str | Path = "recipe") -> NamedFiles:
    """The very files that a recipe names, and no others, for `TextToImage`.

    where  what the recipe was read from, for the error
    Raises GessoError (code recipe_file_missing) for a file that is not on this machine.
    """
    files: dict[str, dict[str, Path]] = {}
    for extra in recipe.extras:
        path = finder.of_recipe(extra)
        if path is None:
            field = FIELD_OF_KIND.get(extra.kind)
            raise GessoError(
                f"{where}: drawn with the {extra.kind.replace('_', ' ')} {extra.name[:100]!r} "
                f"(sha256 {extra.sha256[:10]}...), which is not here"
                + (f". Say where it is with `{field}`" if field else ". It is of a newer gesso; update"),
                code="recipe_file_missing",
                field=field,
                data={"kind": extra.kind, "name": extra.name, "sha256": extra.sha256},
            )
        files.setdefault(extra.kind, {})[extra.name] = path
    return NamedFiles(files)  # type: ignore[arg-type]  # kinds of a newer version find nothing
