"""Checks of an installation: one value each, whatever is broken."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gesso.errors import GessoError, one_line

Status = Literal["ok", "note", "failed"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found.

    section  what it is about: versions, packages, machine, folders, settings, drawing
    status   ok; note: works, but something is missing or unusual; failed: gesso does not work without it
    text     what was found
    advice   what to do; "" if nothing
    data     the same for programs
    """

    section: str
    name: str
    status: Status = "ok"
    text: str
    advice: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def guarded(section: str, name: str, look: Callable[[], Check | Iterator[Check]]) -> Iterator[Check]:
    """The checks that a function makes; if it raises, one that failed."""
    try:
        made = look()
        yield from ([made] if isinstance(made, Check) else made)
    except GessoError as error:
        data = {"code": error.code, "error": error.one_line}
        yield Check(section=section, name=name, status="failed", text=error.one_line, data=data)
    except Exception as error:  # a check must not end the others
        text = one_line(f"{type(error).__name__}: {error}")[:300]
        yield Check(section=section, name=name, status="failed", text=text, data={"error": text})
