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

from gesso.errors import GessoError
from gesso.frontends.midjourney import FLAG_NAMES, FlaggedPrompt, parse_flags
from gesso.frontends.styles import MAX_FILE_CHARS, Style, apply_styles, parse_styles
from gesso.frontends.wildcards import expand, parse_list
from gesso.notices import Notice
from gesso.request.checks import short
from gesso.request.request import DRAWN_SEED_BITS, TextToImageRequest

if TYPE_CHECKING:
    from gesso.families.base import Family

MAX_LISTS = 10_000
MAX_LIST_NBYTES = 2**23
MAX_TEMPLATE = 2000  # characters of a template that a notice keeps
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
            return iter((PlainRequest(request, notices),))
        return (PlainRequest(part.request, notices + part.notices) for part in _filled(request, self.lists))


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
    """One request per picture, each filled in on its own; the request itself if there is nothing to fill in."""
    seed = secrets.randbits(DRAWN_SEED_BITS) if request.seed is None else request.seed
    for index in range(request.first_index, request.first_index + request.num_images):
        prompt = expand(request.prompt, lists, seed=seed, index=index)
        negative = expand(request.negative_prompt, lists, seed=seed, index=-1 - index)  # draws of its own
        notices = prompt.notices + negative.notices
        if not prompt.draws and not negative.draws:
            yield PlainRequest(request, notices)
            return
        drawn = ((prompt, request.prompt, "prompt"), (negative, request.negative_prompt, "negative prompt"))
        notices += tuple(
            Notice(
                f"the {what} was generated from: {' '.join(text.split())[:MAX_TEMPLATE]}",
                code="template_drawn",
                field=what.replace(" ", "_"),
                data={"template": text},
            )
            for one, text, what in drawn
            if one.draws
        )
        part = replace(
            request, prompt=prompt.text, negative_prompt=negative.text, seed=seed, num_images=1, first_index=index
        )
        yield PlainRequest(part, notices)


# ---- files -----------------------------------------------------------------------------------------------------------


class WildcardFolder(Mapping[str, Sequence[str]]):
    """The lists of a folder: each .txt is one, by its path in the folder without the ending, with slashes.

    A list is read when it is first asked for. Raises GessoError for a folder that is none, and for more files than
    MAX_LISTS.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise GessoError(f"{folder}: expected a folder of wildcards", code="wrong_kind", data={"path": str(folder)})
        self._files: dict[str, Path] = {}
        self._read: dict[str, tuple[str, ...]] = {}
        for base, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(base) / name
                if path.suffix.lower() == ".txt" and path.is_file():
                    self._files[path.relative_to(folder).with_suffix("").as_posix()] = path
            if len(self._files) > MAX_LISTS:
                raise GessoError(
                    f"{folder}: more than {MAX_LISTS} wildcards. Use a subfolder",
                    code="too_large",
                    data={"path": str(folder)},
                )

    def __getitem__(self, name: str) -> tuple[str, ...]:
        if name not in self._read:
            self._read[name] = parse_list(_text(self._files[name], MAX_LIST_NBYTES))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


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
