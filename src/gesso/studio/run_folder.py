"""The folder of a run of many pictures, in which an interrupted run resumes.

`run.json` says what the run is; each picture is there whole or not at all, and carries the request that made it. So
what is done is told by the pictures alone, and a run that is started again draws those that are missing.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gesso.errors import GessoError
from gesso.pictures.picture_file import FORMATS, read_bytes, read_picture, write_new
from gesso.request.checks import parse_json_object
from gesso.request.recipe import Recipe
from gesso.request.request import DRAWN_SEED_BITS

FILE, SCHEMA = "run.json", "gesso.run"
MAX_RUNS = 10_000


class OtherRunError(GessoError):
    """A folder that holds something else than the run."""

    default_code = "other_run"


@dataclass(frozen=True)
class RunFolder:
    """Made by `open_run`.

    seed     of the whole run: that which was asked for, or one that was drawn when the run began
    is_new   whether no earlier part of the run was here
    """

    path: Path
    seed: int
    is_new: bool

    def picture(self, name: str) -> Path:
        """Where a picture of the run is, or will be."""
        return self.path / name

    def done(self, name: str, expected: Recipe) -> Image.Image | None:
        """The picture, where it is there and was made by this request with these files; None where it is not.

        Raises GessoError where something else stands in its place.
        """
        path = self.picture(name)
        if not path.exists():
            return None
        image, recipe = read_picture(path)
        if recipe.request != expected.request or _files(recipe) != _files(expected):
            raise GessoError(
                f"{path}: not the picture that this run draws there. Choose another `output`",
                code="other_run",
                data={"path": str(path)},
            )
        return image

    def save(self, name: str, data: bytes) -> Path:
        """Write a picture. Raises GessoError where its name was taken meanwhile."""
        path = self.picture(name)
        try:
            write_new(path, data)
        except FileExistsError:
            raise GessoError(
                f"{path}: appeared while it was drawn. Is the same run active elsewhere?",
                code="other_run",
                data={"path": str(path)},
            ) from None
        return path


def begin_run(base: Path, what: dict[str, Any], seed: int | None) -> RunFolder:
    """The folder base, base_2, base_3, ... in which this very run was begun, or the first that is free."""
    if not base.name or base.name == "..":  # the current folder, a root: no other name beside it is meant
        return open_run(base, what, seed)
    for number in range(1, MAX_RUNS):
        path = base if number == 1 else base.with_name(f"{base.name}_{number}")
        try:
            return open_run(path, what, seed)
        except OtherRunError:
            continue
    raise GessoError(
        f"{base}: {MAX_RUNS} runs already exist. Choose a folder with `output`",
        code="name_taken",
        data={"path": str(base)},
    )


def open_run(path: Path, what: dict[str, Any], seed: int | None) -> RunFolder:
    """Begins a run in a folder, or goes on with the one that is there.

    what: all that makes the run, as JSON; a folder with another run is refused. Raises GessoError, OtherRunError.
    """
    file = path / FILE
    what = json.loads(json.dumps(what))  # tuples become lists, as they come back from the file
    if file.exists():
        stored = parse_json_object(read_bytes(file).decode("utf-8", errors="replace"), FILE)
        if stored.get("schema") != SCHEMA or not isinstance(stored.get("seed"), int):
            raise GessoError(
                f"{file}: not written by gesso; choose another folder with `output`",
                code="other_run",
                data={"path": str(file)},
            )
        if stored.get("what") != what or seed not in (None, stored["seed"]):
            before = stored["what"] if isinstance(stored["what"], dict) else {}
            differs = ", ".join(key for key in what if before.get(key) != what[key]) or "seed"
            raise OtherRunError(f"{path}: holds another run (different {differs}). Choose another folder with `output`")
        return RunFolder(path, stored["seed"], is_new=False)
    if path.exists() and (not path.is_dir() or any(entry.suffix in FORMATS for entry in path.iterdir())):
        raise OtherRunError(f"{path}: already exists and holds other pictures. Choose another folder with `output`")
    seed = secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed
    text = json.dumps({"schema": SCHEMA, "seed": seed, "what": what}, ensure_ascii=False, indent=1)
    try:
        write_new(file, text.encode())
    except FileExistsError:
        return open_run(path, what, seed)
    return RunFolder(path, seed, is_new=True)


def _files(recipe: Recipe) -> list[str]:
    """The bytes that a picture was made with, whatever their files are called."""
    models = [file.sha256 for file in (*recipe.files, *recipe.refiner_files)]
    return sorted(models + [file.sha256 for file in recipe.extras])
