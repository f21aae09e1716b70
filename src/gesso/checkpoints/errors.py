"""What can be wrong with a model file, from a closed list of reasons."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from gesso.errors import GessoError

Reason = Literal[
    "missing",  # no such file or folder, or a part of a folder
    "unreadable",  # not a regular file, or no permission
    "unwritable",
    "truncated",
    "not_safetensors",
    "header_length",
    "header_json",
    "offsets",
    "dtype",
    "overflow",
    "metadata",
    "config",  # a configuration that is not one of ours
    "unknown_key",
    "missing_key",
    "duplicate_key",
    "shape",
    "nonfinite",
    "architecture_mismatch",
]

_SHOWN = 120  # characters of a name that a message repeats; names of a megabyte are possible


class ModelFileError(GessoError):
    """A model file or folder that cannot be used; `reason` is for programs, the message for people."""

    def __init__(self, reason: Reason, where: str | Path, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.reason = reason
        self.where = str(where)


def shown(name: str) -> str:
    """A name from a file, cut to a length that fits a message."""
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}... ({len(name)} characters)"


def examples(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown(name) for name in names[:limit]) + more


def shape_text(shape: Sequence[int]) -> str:
    """[320, 768]"""
    return str(list(shape))
