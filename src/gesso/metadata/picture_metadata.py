"""The settings read from a picture, as a request with notices about what is not supported."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gesso.notices import Notice
from gesso.request.checks import MAX_NAME, RequestError, short
from gesso.request.names import with_canonical_names
from gesso.request.recipe import Recipe
from gesso.request.request import NAMED, TextToImageRequest, with_values

MAX_NOTICES = 64

_EMPTY = TextToImageRequest(prompt="")


@dataclass(frozen=True, kw_only=True)
class PictureMetadata:
    """The settings of a picture.

    tool      that wrote them: gesso, A1111, ComfyUI, InvokeAI, NovelAI
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

    def part(self, cls: type[Any], key: str, **values: Any) -> Any:
        """A part of the request, or None and a notice."""
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except (RequestError, TypeError) as error:
            self.note(f"ignored: {key}: {getattr(error, 'message', error)}")
            return None

    def sampler(self, sampler: str | None, schedule: str | None) -> None:
        """Set sampler and schedule by the names of another tool; older sampler names include the schedule."""
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


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME


def whole(text: Any) -> int | None:
    """A whole number from a file; None for anything else."""
    number = real(text)
    return int(number) if number is not None and number == int(number) else None


def real(text: Any) -> float | None:
    """A finite number from a file; None for anything else."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    if isinstance(text, str) and len(text) > 40:
        return None
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 2**63 else None
