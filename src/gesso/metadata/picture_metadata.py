"""The settings read from a picture, as a request with notices about what is not supported."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gesso.errors import short
from gesso.notices import Notice
from gesso.request.checks import MAX_NAME, RequestError
from gesso.request.names import with_canonical_names
from gesso.request.parts import LoraUse
from gesso.request.recipe import Recipe
from gesso.request.request import NAMED, ROWS, TextToImageRequest, with_values

MAX_NOTICES = 64
MAX_NAMES = 4  # of what is nested in a setting that is not used
MAX_DIGITS = 40  # characters of a number
_WHOLE = re.compile(r"[-+]?[0-9]+")

# How ComfyUI draws, and so the tools that draw by it.
COMFYUI = {"preset": "gesso", "syntax": "comfyui", "emphasis": "comfyui", "noise": "cpu", "initial_noise": "comfyui"}

_EMPTY = TextToImageRequest(prompt="")


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """The settings of a picture.

    tool      that wrote them: gesso, A1111, ComfyUI, SwarmUI, ...
    request   the settings that could be read; others are not set
    model, model_hash  name and first digits of the SHA-256 of the model, if they are stored
    recipe    the exact recipe, if gesso wrote the picture
    notices   what gesso ignores or does differently, one line each
    pairs     all settings as stored in the picture
    """

    tool: str
    request: TextToImageRequest
    model: str = ""
    model_hash: str = ""
    recipe: Recipe | None = None
    notices: tuple[Notice, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)


class Draft:
    """Collects fields of a request from untrusted values; an invalid one becomes a notice."""

    def __init__(self, **values: Any) -> None:
        self.values: dict[str, Any] = {}
        self.notices: list[Notice] = []
        for name, value in values.items():
            self.set(NAMED[name].path, value, name)

    def set(self, path: str, value: Any, key: str) -> None:
        """Set a field of the request by its path; `key`: its name in the file. None is skipped."""
        if value is None:
            return
        try:
            with_values(_EMPTY, {path: value})
        except (RequestError, TypeError) as error:
            self.note(f"ignored: {key}: {getattr(error, 'message', error)}", field=path)
        else:
            self.values[path] = value

    def number(self, path: str, stored: Any, key: str) -> None:
        """Set a field that is a number from what a file has; what is none is named, as is one out of range."""
        row = ROWS[path]
        value: Any = whole(stored) if row.kind == "whole" else real(stored)
        if value is None and not says_nothing(stored):
            value = stored if isinstance(stored, str) else str(stored)
        if row.field.minus_one and value == -1:
            return  # a random one
        self.set(path, value, key)

    def ignored(self, stored: Mapping[str, Any], used: Iterable[str]) -> None:
        """A notice for each setting of a file that was not used and says something."""
        known = frozenset(used)
        for key, value in stored.items():
            if key in known or says_nothing(value):
                continue
            if len(self.notices) >= MAX_NOTICES - 1:
                self.note("not supported, ignored: further settings of the file")
                return
            self.note(f"not supported, ignored: {key[:64]}{_shown(value)}")

    def part(self, cls: type[Any], key: str, **values: Any) -> Any:
        """A part of the request, or None and a notice."""
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except (RequestError, TypeError) as error:
            self.note(f"ignored: {key}: {getattr(error, 'message', error)}")
            return None

    def sampler(self, sampler: Any, schedule: Any) -> None:
        """Set sampler and schedule by the names of another tool; older sampler names include the schedule.

        None and "" are skipped; what is no name is a notice.
        """
        for name_in_file, empty in (
            (sampler, TextToImageRequest(prompt="", sampler=sampler) if _is_name(sampler) else None),
            (schedule, TextToImageRequest(prompt="", schedule=schedule) if _is_name(schedule) else None),
        ):
            if not name_in_file:
                continue
            try:
                canonical = with_canonical_names(empty) if empty is not None else None
            except RequestError:
                canonical = None
            if canonical is None:
                self.note(f"ignored: {short(name_in_file)} is not a known sampler or schedule", code="sampler_unknown")
                continue
            for name, value in (("sampler", canonical.sampler), ("schedule", canonical.schedule)):
                if value is not None:
                    self.values[name] = value

    def lora(self, name: Any, weight: Any = None) -> None:
        """Add a LoRA by the name of its file, with folders and ending or without."""
        if not isinstance(name, str) or says_nothing(name):
            return
        stem = stem_of(name)
        use = self.part(LoraUse, f"LoRA {short(stem)}", name=stem, weight=real(weight))
        if use is not None:
            self.values["loras"] = (*self.values.get("loras", ()), use)

    def note(self, line: str, *, code: str = "setting_ignored", field: str | None = None) -> None:
        """Add a notice."""
        if len(self.notices) < MAX_NOTICES and line not in self.notices:
            self.notices.append(Notice(line[:300], code=code, field=field))

    def note_all(self, notices: Iterable[Notice]) -> None:
        """The notices of a part that was read on its own."""
        for notice in notices:
            self.note(notice, code=notice.code, field=notice.field)

    def build(self, tool: str, *, pairs: Mapping[str, str], model: str = "", model_hash: str = "") -> PictureMetadata:
        """The metadata from the fields set so far."""
        try:
            request = with_values(_EMPTY, self.values)
        except RequestError as error:  # fields that are good alone and not together, such as a size of too many pixels
            self.note(f"ignored: {error.message}", field=error.field)
            wrong = ("width", "height", error.field.partition("[")[0])
            request = with_values(_EMPTY, {path: value for path, value in self.values.items() if path not in wrong})
        return PictureMetadata(
            tool=tool, request=request, model=model, model_hash=model_hash, notices=tuple(self.notices), pairs=pairs
        )


def pairs_of(stored: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a tool as text, for `PictureMetadata.pairs`: bounded, since anyone may have written them."""
    return {str(key)[:64]: str(value)[:200] for key, value in list(stored.items())[:100]}


def stem_of(name: Any) -> str:
    """The name of a model's file, without folders and ending; "" where it is no text."""
    if not isinstance(name, str):
        return ""
    name = name.replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".safetensors").removesuffix(".ckpt")


def _shown(value: Any) -> str:
    """A value behind its key; of what is nested, the names in it."""
    if names := list(dict.fromkeys(_names_in(value, 4))):
        value = names[:MAX_NAMES]
    if isinstance(value, list) and value and all(isinstance(one, str | int | float) for one in value):
        value = ", ".join(map(str, value))
    if not isinstance(value, str | int | float):
        return ""
    text = str(value)
    return f": {text}" if len(text) <= 80 else f": {text[:77]}..."


def _names_in(value: Any, depth: int) -> Iterator[str]:
    """What an object, or a list of them, calls its models."""
    if isinstance(value, list) and depth:
        for one in value[:MAX_NAMES]:
            yield from _names_in(one, depth - 1)
    if isinstance(value, dict) and depth:
        for key, one in list(value.items())[:64]:
            if key in ("name", "model_name") and isinstance(one, str):
                yield one[:64]
            yield from _names_in(one, depth - 1)


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME and "\0" not in text


def whole(text: Any) -> int | None:
    """A whole number from a file, exactly; None for anything else. 20.0 is one too."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    if isinstance(text, str) and len(text) <= MAX_DIGITS and _WHOLE.fullmatch(text.strip()):
        return int(text)
    number = real(text)
    return int(number) if number is not None and number == int(number) else None


def real(text: Any) -> float | None:
    """A finite number from a file; None for anything else."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    if isinstance(text, str) and len(text) > MAX_DIGITS:
        return None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 2**63 else None


def says_nothing(value: Any) -> bool:
    """Whether a value of a file switches nothing on: nothing, no, 0, an empty list."""
    return not value or (isinstance(value, str) and value.strip().lower() in ("", "none", "false", "0", "0.0", "null"))
