"""The files that a request names besides the model: by name, by path, or from a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.request.finder import KIND_NAMES, Kind, NamedFiles
from gesso.request.recipe import check_tensors

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


def kind_name(kind: str) -> str:
    """What messages call a kind of file; of a newer gesso, its own name."""
    names: Mapping[str, str] = KIND_NAMES  # type: ignore[assignment]
    return names.get(kind, kind.replace("_", " "))


def recipe_files(recipe: "Recipe", finder: "LibraryFinder", where: str | Path = "recipe") -> NamedFiles:
    """Exactly the files that a recipe names, for `TextToImage`.

    where  what the recipe was read from, for the error
    Raises GessoError (code recipe_file_missing) for a file that is not on this machine.
    """
    check_tensors(recipe, where)
    files: dict[str, dict[str, Path]] = {}
    for extra in recipe.extras:
        path = finder.of_recipe(extra)
        if path is None:
            field = FIELD_OF_KIND.get(extra.kind)
            raise GessoError(
                f"{where}: drawn with the {kind_name(extra.kind)} {extra.name[:100]!r} "
                f"(sha256 {extra.sha256[:10]}...), which was not found"
                + (f". Give it with `{field}`" if field else ". A newer gesso wrote this; update gesso"),
                code="recipe_file_missing",
                field=field,
                data={"kind": extra.kind, "name": extra.name, "sha256": extra.sha256},
            )
        files.setdefault(extra.kind, {})[extra.name] = path
    return NamedFiles(files, builtin=False)  # type: ignore[arg-type]  # kinds of a newer version find nothing
