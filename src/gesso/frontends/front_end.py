"""Resolves Midjourney flags, styles and wildcards in a prompt.

    front = FrontEnd(flags=True)
    for part in front.requests(TextToImageRequest(prompt="a cat --ar 3:2 --no dogs"), pipeline.model.family):
        for picture in pipeline(part.request):
            picture = picture.with_notices(part.notices)

A front end to the one request: what comes out is plain, so that the recipe says all. Flags are read first, then styles
are put around, then wildcards filled in.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError, short
from gesso.extras import missing_extra
from gesso.frontends.midjourney import FLAG_NAMES, FlaggedPrompt, parse_flags
from gesso.frontends.styles import MAX_FILE_CHARS, Style, apply_styles, parse_styles
from gesso.frontends.wildcard_tables import parse_table
from gesso.frontends.wildcards import expand, parse_list
from gesso.notices import Notice
from gesso.request.request import DRAWN_SEED_BITS, TextToImageRequest

if TYPE_CHECKING:
    from gesso.families.base import Family

MAX_LISTS = 10_000
MAX_LIST_NBYTES = 2**23
MAX_TEMPLATE = 2000  # characters of a template that a notice keeps
_CHOICE = re.compile(r"(?<!\\)\{[^{}|\n]*\|[^{}\n]*\}")
_WILDCARD = re.compile(r"(?<![\w\\])__[\w*/-]{0,99}[\w*]__(?!\w)", re.ASCII)  # bounded, and so linear in a text
_FOLDER = "to fill in a line of its list, use `wildcards=FOLDER`"
_FLAG = re.compile(r"(?<!\S)--([A-Za-z]+)")


@dataclass(frozen=True)
class PlainRequest:
    """A plain request, and notices about how the prompt was read."""

    request: TextToImageRequest
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """Turns a prompt as written into plain requests.

    flags   the prompt ends in Midjourney's flags (`gesso.frontends.midjourney`)
    styles  applied to the prompts, one after the other
    lists   lines by the names of wildcards; None: {a|b} and __name__ are text
    """

    flags: bool = False
    styles: tuple[Style, ...] = ()
    lists: Mapping[str, Sequence[str]] | None = None

    def num_images(self, request: TextToImageRequest) -> int:
        """The number of pictures, which the flag --repeat may set. Raises PromptError."""
        repeat = parse_flags(request.prompt).flags.get("repeat") if self.flags else None
        return request.num_images if repeat is None or request.num_images != 1 else int(repeat)

    def requests(self, request: TextToImageRequest, family: "Family") -> Iterator[PlainRequest]:
        """Requests that draw the pictures of one, in their order: more than one where each has a prompt of its own.

        family: of the model, whose defaults flags go by. Wildcards are filled in as the iterator is read; where they
        need a seed and none is given, one is drawn. Raises PromptError for flags and wildcards that cannot be read.
        """
        notices: tuple[Notice, ...] = ()
        if self.flags:
            request, notices = _with_flags(request, parse_flags(request.prompt), family)
        elif looking := [name for name in dict.fromkeys(_FLAG.findall(request.prompt)) if name.lower() in FLAG_NAMES]:
            named = ", ".join(f"--{name}" for name in looking)
            text = f"{named} in the prompt is read as text; to read flags, use `syntax=midjourney`"
            notices = (Notice(text, code="flags_as_text", field="prompt"),)
        if self.styles:
            prompt, negative = apply_styles(request.prompt, request.negative_prompt, self.styles)
            request = replace(request, prompt=prompt, negative_prompt=negative)
        if self.lists is None:
            return iter((PlainRequest(request, (*notices, *_templates_as_text(request))),))
        return (PlainRequest(part.request, notices + part.notices) for part in _filled(request, self.lists))


def _templates_as_text(request: TextToImageRequest) -> Iterator[Notice]:
    """Notices about wildcards and choices that nobody asked to fill in."""
    for field in ("prompt", "negative_prompt"):
        text: str = getattr(request, field)
        for pattern, how in ((_CHOICE, "to choose one of its parts, use `dynamic_prompts`"), (_WILDCARD, _FOLDER)):
            if match := pattern.search(text):
                yield Notice(
                    f"{short(match[0])} in the {field.replace('_', ' ')} is read as text; {how}",
                    code="template_as_text",
                    field=field,
                )


def _with_flags(
    request: TextToImageRequest, flagged: FlaggedPrompt, family: "Family"
) -> tuple[TextToImageRequest, tuple[Notice, ...]]:
    """The request with the fields that its flags set; fields that are set already stay."""
    fields = flagged.fields(
        native_size=family.output_size,
        multiple=family.size_multiple,
        num_steps=family.defaults.num_steps,
        guidance_scale=family.defaults.guidance_scale,
    )
    negative = ", ".join(text for text in (request.negative_prompt, fields.pop("negative_prompt", "")) if text)
    prompt = fields.pop("prompt")
    taken = [name for name in fields if getattr(request, name) != (1 if name == "num_images" else None)]
    if "width" in taken or "height" in taken:
        taken += ["width", "height"]
    notices = tuple(
        Notice(
            f"ignored: the flag for {name}, which is already set to {getattr(request, name)}",
            code="flag_overridden",
            field=name,
        )
        for name in taken
    )
    fields = {name: value for name, value in fields.items() if name not in taken}
    plain = replace(request, prompt=prompt, negative_prompt=negative, **fields)
    return plain, flagged.notices + tuple(dict.fromkeys(notices))


def _filled(request: TextToImageRequest, lists: Mapping[str, Sequence[str]]) -> Iterator[PlainRequest]:
    """One request per picture, each filled in on its own; a single one where all have the same prompts."""
    seed = secrets.randbits(DRAWN_SEED_BITS) if request.seed is None else request.seed
    for index in range(request.first_index, request.first_index + request.num_images):
        prompt = expand(request.prompt, lists, seed=seed, index=index)
        negative = expand(request.negative_prompt, lists, seed=seed, index=-1 - index)  # draws of its own
        notices = prompt.notices + negative.notices
        if isinstance(lists, WildcardFolder):
            notices += tuple(lists.notices)
        drawn = ((prompt, request.prompt, "prompt"), (negative, request.negative_prompt, "negative prompt"))
        notices += tuple(
            Notice(
                f"the {what} was generated from: {_line(template)}; drawn: {_line(one.text)}",
                code="template_drawn",
                field=what.replace(" ", "_"),
                data={"template": template, "drawn": one.text},
            )
            for one, template, what in drawn
            if one.draws or one.text != template
        )
        part = replace(request, prompt=prompt.text, negative_prompt=negative.text)
        if not prompt.draws and not negative.draws:
            yield PlainRequest(part, notices)
            return
        yield PlainRequest(replace(part, seed=seed, num_images=1, first_index=index), notices)


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_TEMPLATE]


# ---- files -----------------------------------------------------------------------------------------------------------


class WildcardFolder(Mapping[str, Sequence[str]]):
    """The lists of a folder, as sd-dynamic-prompts finds them.

    Each .txt is one, by its path in the folder without the ending, with slashes; .yaml, .yml and .json hold several
    (`gesso.frontends.wildcard_tables`), by the path of their folder and their keys. Where both have a name, the .txt
    is read. Links to folders are followed; folders whose name begins with a dot are not read.

    A list is read when it is first asked for, a table when no .txt has the name. Raises GessoError for a folder that
    is none, and for more lists than MAX_LISTS.

    notices  of the tables that were read: values that are not text
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise GessoError(f"{folder}: expected a folder of wildcards", code="wrong_kind", data={"path": str(folder)})
        self._folder = folder
        self._files: dict[str, Path] = {}
        self._tables: list[Path] = []
        self._read: dict[str, tuple[str, ...]] = {}  # of _files
        self._in_tables: dict[str, tuple[str, ...]] = {}
        self.notices: list[Notice] = []
        for path in _files_below(folder):
            if path.suffix.lower() == ".txt":
                self._files[self._name(path.with_suffix(""))] = path
            elif path.suffix.lower() in (".yaml", ".yml", ".json"):
                self._tables.append(path)
            if len(self._files) + len(self._tables) > MAX_LISTS:
                raise self._too_many()

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name not in self._files:
            self._read_tables()
            return self._in_tables[name]
        if name not in self._read:
            self._read[name] = parse_list(_text(self._files[name], MAX_LIST_NBYTES))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        self._read_tables()
        return iter((*self._files, *self._in_tables))

    def __len__(self) -> int:
        self._read_tables()
        return len(self._files) + len(self._in_tables)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _too_many(self) -> GessoError:
        return GessoError(
            f"{self._folder}: more than {MAX_LISTS} wildcards. Use a subfolder",
            code="too_large",
            data={"path": str(self._folder)},
        )

    def _read_tables(self) -> None:
        while self._tables:
            path = self._tables[0]
            lists, ignored = _table(path)
            folder = "" if path.parent == self._folder else self._name(path.parent)
            for key, lines in lists.items():
                name = f"{folder}/{key}".strip("/")
                if name not in self._files:
                    self._in_tables[name] = lines
            if len(self._files) + len(self._in_tables) > MAX_LISTS:
                raise self._too_many()
            if ignored:
                others = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
                places = ", ".join(map(short, ignored[:3]))
                self.notices.append(
                    Notice(
                        f"ignored in {path.name}: {places}{others}, expected text. Put it in quotes",
                        code="wildcard_skipped",
                        data={"path": str(path), "places": list(ignored[:100])},
                    )
                )
            del self._tables[0]


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders, each folder once."""
    seen: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(base)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if (path := Path(base) / name).is_file():
                yield path


def _table(path: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    details = {"path": str(path)}
    try:
        return parse_table(_text(path, MAX_LIST_NBYTES), path.name)
    except ImportError as error:
        raise missing_extra(f"{path}: reading it", "PyYAML", "comfyui", error, data=details) from None
    except ValueError as error:
        raise GessoError(
            f"{path}: {error}. Correct the wildcards, or move the file elsewhere", code="damaged", data=details
        ) from None


def read_styles(path: Path) -> dict[str, Style]:
    """The styles of a CSV by name. Raises GessoError for a file that is none."""
    return parse_styles(_text(path, MAX_FILE_CHARS), str(path))


def _text(path: Path, most: int) -> str:
    try:
        with open(path, "rb") as handle:
            content = handle.read(most + 1)
        if len(content) > most:
            raise GessoError(f"{path}: expected at most {most} bytes", code="too_large", data={"path": str(path)})
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise GessoError(f"{path}: no such file", code="missing", data={"path": str(path)}) from None
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be read ({error.strerror})", code="unreadable", data={"path": str(path)}
        ) from None
    except UnicodeDecodeError as error:
        raise GessoError(
            f"{path}: byte {error.start} is not UTF-8 text; save {short(path.name)} as UTF-8",
            code="unreadable",
            data={"path": str(path)},
        ) from None
