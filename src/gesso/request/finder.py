"""Names of files in a request become files: LoRA, learned words, control networks, upscalers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, get_args

from gesso.errors import GessoError
from gesso.request.checks import nearest, short
from gesso.request.embedded import embedded_extras

Kind = Literal["lora", "embedding", "control", "upscaler", "image_encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Finder(Protocol):
    """What a pipeline asks for files. A name comes from a request, which a stranger may have written: it is looked up
    among names that are known, and is never a path.
    """

    def find(self, kind: Kind, name: str) -> Path:
        """The file of that name. Raises GessoError, which names what is close, where there is none."""
        ...

    def names(self, kind: Kind) -> Collection[str]:
        """All names of a kind."""
        ...


def embedded_files() -> "NamedFiles":
    """A finder of what gesso carries."""
    return NamedFiles({kind: embedded_extras(kind) for kind in KINDS})


@dataclass(frozen=True)
class NamedFiles:
    """A finder of the files that it was given: kind -> name -> path."""

    files: Mapping[Kind, Mapping[str, Path]] = field(default_factory=dict)

    def find(self, kind: Kind, name: str) -> Path:
        """The file of that name. Raises GessoError where there is none."""
        known = self.files.get(kind, {})
        if name not in known:
            there = f"Known: {', '.join(sorted(known))}" if known else "None was given"
            raise GessoError(f"no {kind} is called {short(name)}{nearest(name, known)}. {there}", code="unknown_name")
        return known[name]

    def names(self, kind: Kind) -> Collection[str]:
        """All names of a kind."""
        return self.files.get(kind, {}).keys()


def find_file(kind: Kind, name: str) -> Path:
    """A file that the user named at the terminal: one that is there, else one that gesso carries by that name.

    Raises GessoError where it is neither.
    """
    return Path(name) if Path(name).is_file() else embedded_files().find(kind, name)
