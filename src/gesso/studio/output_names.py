"""Output names: from a pattern and the request to a free path.

Fields such as {seed} are filled with cleaned values, so what stands in a prompt or a model's name can neither leave the
folder nor make a name that a file system refuses. No file is overwritten in silence.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gesso.errors import GessoError
from gesso.pictures.picture_file import FORMATS, write_new
from gesso.request.recipe import Recipe

DEFAULT_FOLDER = "outputs"
MAX_VALUE_BYTES = 80
MAX_NAME_BYTES = 240  # 255 is the limit of common file systems; "-1234" and the hidden name need room
MAX_TRIES = 100_000

_FIELD = re.compile(r"\{\{|\}\}|\{(\w*)(?::(0?[0-9]{1,2}))?\}")  # {{ and }} are literal braces

FIELDS: dict[str, Callable[[Recipe], str | int]] = {
    "seed": lambda recipe: recipe.request.seed,
    "index": lambda recipe: recipe.request.first_index,
    "prompt": lambda recipe: recipe.request.prompt,
    "model": lambda recipe: recipe.model.removesuffix(".safetensors"),
    "model_hash": lambda recipe: recipe.model_hash,
    "width": lambda recipe: recipe.request.width,
    "height": lambda recipe: recipe.request.height,
    "steps": lambda recipe: recipe.request.num_steps,
    "guidance": lambda recipe: f"{recipe.request.guidance_scale:g}",
    "sampler": lambda recipe: recipe.request.sampler,
    "schedule": lambda recipe: recipe.request.schedule,
    "date": lambda recipe: time.strftime("%Y-%m-%d"),
    "time": lambda recipe: time.strftime("%H-%M-%S"),
}


@dataclass(frozen=True)
class OutputNames:
    """Where pictures go. Build one with `plan`.

    pattern: path with {fields}; exact: the user named one file, which must not be taken by another.
    """

    pattern: str
    exact: bool
    overwrite: bool = False

    @property
    def format(self) -> str:
        """That of the files, by the ending of their names: PNG, JPEG, WEBP or AVIF."""
        return FORMATS[Path(self.pattern).suffix.lower()]

    def save(self, data: bytes, recipe: Recipe) -> Path:
        """Write the bytes under the next free name (the exact one where one was asked for) and return the path.

        Raises GessoError where the exact name is taken or nothing can be written.
        """
        for path in self.candidates(recipe):
            try:
                write_new(path, data, overwrite=self.overwrite)
                return path
            except FileExistsError:
                continue
        if self.exact:
            raise GessoError(_taken(next(self.candidates(recipe))), code="name_taken")
        raise GessoError(
            f"{self.pattern}: {MAX_TRIES} files of this name already exist. Choose another `output`",
            code="name_taken",
        )

    def candidates(self, recipe: Recipe) -> Iterator[Path]:
        """Names to try in turn: the filled pattern, then the same with _2, _3, ... before the ending."""
        folder, name = os.path.split(fill(self.pattern, recipe))
        stem, ending = os.path.splitext(name)
        stem = _cut(stem, MAX_NAME_BYTES - len(ending))
        yield Path(folder, stem + ending)
        if not (self.exact or self.overwrite):
            for number in range(2, MAX_TRIES):
                yield Path(folder, f"{stem}_{number}{ending}")


def plan(output: str | None, *, num_images: int, first_index: int = 0, overwrite: bool = False) -> OutputNames:
    """Read an output name and make sure, before any work, that it can be written.

    None: outputs/gesso-{seed}.png. An existing folder, a name that ends in / or one without an ending:
    that folder. Otherwise a file name or pattern that ends in .png, .jpg, .webp or .avif. Where a run has several
    pictures, or one that is not the first, the index joins the name unless the pattern has it. Raises GessoError.
    """
    several = num_images > 1 or first_index > 0
    default = "gesso-{seed}-{index}.png" if several else "gesso-{seed}.png"
    if output is None:
        pattern, exact = os.path.join(DEFAULT_FOLDER, default), False
    elif "\0" in output or not output.strip():
        raise GessoError(
            "`output` is empty or contains a NUL character; give a file name, a folder or a pattern",
            code="invalid_name",
            field="output",
        )
    elif Path(output).is_dir():  # its name is no pattern
        pattern, exact = os.path.join(output.replace("{", "{{").replace("}", "}}"), default), False
    elif output.endswith(("/", os.sep)) or not Path(output).suffix:
        pattern, exact = os.path.join(output, default), False
    elif Path(output).suffix.lower() not in FORMATS:
        raise GessoError(
            f"{output}: expected a name ending in {', '.join(FORMATS)}, or a folder",
            code="invalid_name",
            field="output",
        )
    else:
        stem, ending = os.path.splitext(output)
        used = _fields_of(output)
        pattern, exact = output, num_images == 1 and not used
        if num_images > 1 and "index" not in used:
            pattern = stem + "-{index}" + ending
    _fields_of(pattern)
    names = OutputNames(pattern, exact, overwrite)
    if exact and not overwrite and os.path.lexists(pattern):
        raise GessoError(_taken(Path(pattern)), code="name_taken")
    _check_writable(pattern)
    return names


def fill(pattern: str, recipe: Recipe) -> str:
    """The pattern with cleaned values; a number may be padded as in {index:04}. {{ and }} are literal braces."""

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        field_value = FIELDS[match[1]](recipe)
        return f"{field_value:0{int(match[2] or 0)}d}" if isinstance(field_value, int) else clean(field_value)

    return _FIELD.sub(value, pattern)


def _fields_of(pattern: str) -> set[str]:
    """The names of the fields in a pattern. Raises GessoError for one that is not known, and for a lone brace."""
    names = {match[1] for match in _FIELD.finditer(pattern)} - {None}
    if unknown := sorted(names - FIELDS.keys()):
        known = ", ".join(f"{{{name}}}" for name in FIELDS)
        raise GessoError(
            f"`output` {pattern}: unknown field {{{unknown[0]}}}. Known: {known}", code="invalid_name", field="output"
        )
    if re.search(r"[{}]", _FIELD.sub("", pattern)):
        raise GessoError(
            f"`output` {pattern}: unmatched brace; write {{{{ or }}}} for a brace in a name",
            code="invalid_name",
            field="output",
        )
    return names


def clean(text: str) -> str:
    """Letters, digits, - _ . of a text, everything else as one dash; no leading dot; at most MAX_VALUE_BYTES long."""
    kept = re.sub(r"[^\w.-]+|\.{2,}", "-", text).strip("-. ")
    return _cut(re.sub(r"-{2,}", "-", kept), MAX_VALUE_BYTES).strip("-. ") or "none"


def _check_writable(pattern: str) -> None:
    """The folder, or the nearest one above that is there, must take new files."""
    fixed = _FIELD.sub(lambda match: "\0" if match[1] is not None else match[0][0], pattern).split("\0", 1)[0]
    folder = Path(os.path.dirname(fixed) or ".")
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise GessoError(
            f"`output`: {folder} is a file, expected a folder. Choose another place",
            code="unwritable",
            field="output",
        )
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:  # permissions do not tell everything: a file system may be read-only, or none at all
        probe.touch(exist_ok=False)
    except OSError as error:
        raise GessoError(
            f"`output`: cannot write into {folder} ({error.strerror}). Choose another place",
            code="unwritable",
            field="output",
        ) from error
    finally:
        probe.unlink(missing_ok=True)


def _cut(text: str, size: int) -> str:
    """The start of a text that has at most that many bytes as UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def _taken(path: Path) -> str:
    return f"{path} already exists; left unchanged. Choose another name, or add `overwrite`"
