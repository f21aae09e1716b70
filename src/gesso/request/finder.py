"""Finders: the files that a request names (LoRA, embeddings, ControlNet models, upscalers)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, get_args

from gesso.arguments import ArgumentError, check_flag, check_mapping, check_path, check_text, refused
from gesso.errors import GessoError, short
from gesso.request.checks import nearest, unknown_data
from gesso.request.embedded import embedded_extras

Kind = Literal["lora", "embedding", "control", "upscaler", "image_encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_NAMES: Mapping[Kind, str] = MappingProxyType(
    {
        "lora": "LoRA",
        "embedding": "embedding",
        "control": "ControlNet",
        "upscaler": "upscaler",
        "image_encoder": "image encoder",
    }
)


def check_kind(kind: object, name: str = "kind") -> None:
    """Raises ArgumentError for what is no kind of file."""
    if kind not in KINDS:
        raise refused(name, kind, f"one of {', '.join(KINDS)}{nearest(kind, KINDS)}")


def check_files(name: str, files: object) -> None:
    """Raises ArgumentError for anything but kind -> name -> path."""
    expected = "kind -> name -> path, such as {'lora': {'ink': 'loras/ink.safetensors'}}"
    check_mapping(name, files, expected)
    assert isinstance(files, Mapping)
    kinds: Mapping[str, object] = files
    for kind, named in kinds.items():
        if not isinstance(kind, str) or kind not in KINDS:
            known = f"one of {', '.join(KINDS)}{nearest(kind, KINDS)}"
            raise ArgumentError(f"`{name}` has the kind {short(kind)}, expected {known}", field=name)
        check_mapping(f"{name}[{kind!r}]", named, expected)
        assert isinstance(named, Mapping)
        for file, path in named.items():
            check_text(f"{name}[{kind!r}]", file, "names that are texts")
            check_path(f"{name}[{kind!r}][{file!r}]", path)


class Finder(Protocol):
    """Finds the files that a request names. A request may be untrusted, so a name is looked up among known names and is
    never used as a path.
    """

    def find(self, kind: Kind, name: str) -> Path:
        """The file of that name. Raises GessoError with similar names if there is none."""
        ...

    def names(self, kind: Kind) -> Collection[str]:
        """All names of a kind."""
        ...


def embedded_files() -> "NamedFiles":
    """A finder of the files built into gesso."""
    return NamedFiles()


@dataclass(frozen=True)
class NamedFiles:
    """A finder of the given files: kind -> name -> path.

    builtin  the files built into gesso are found as well, unless one of the given has the name
    """

    files: Mapping[Kind, Mapping[str, Path]] = field(default_factory=dict)
    builtin: bool = True

    def __post_init__(self) -> None:
        """Raises ArgumentError, naming the nearest kind, for files that a request could not name."""
        check_files("files", self.files)
        check_flag("builtin", self.builtin)

    def find(self, kind: Kind, name: str) -> Path:
        """The file of that name. Raises GessoError where there is none."""
        check_kind(kind)
        check_text("name", name, "the name of a file")
        known = self._known(kind)
        if name not in known:
            available = f"Known: {', '.join(sorted(known))}" if known else "None is available"
            raise GessoError(
                f"no {KIND_NAMES[kind]} named {short(name)}{nearest(name, known)}. {available}",
                code="unknown_name",
                data={**unknown_data(name, known), "kind": kind},
            )
        return Path(known[name])

    def names(self, kind: Kind) -> Collection[str]:
        """All names of a kind."""
        check_kind(kind)
        return self._known(kind).keys()

    def _known(self, kind: Kind) -> Mapping[str, Path]:
        given = self.files.get(kind, {})
        return {**embedded_extras(kind), **given} if self.builtin else given


def find_file(kind: Kind, name: str) -> Path:
    """A file named at the terminal: an existing file, else one that is built into gesso by that name.

    Raises GessoError where it is neither.
    """
    return Path(name) if Path(name).is_file() else embedded_files().find(kind, name)
