"""One command line: what was typed, and what the environment and the config files add to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What click gets.

    argv         words after `gesso`
    default_map  defaults by commands and parameters
    origins      where defaults come from, for errors, by fields of a request and names of options
    json_default  whether --json is a default
    """

    argv: Sequence[str]
    default_map: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    json_default: bool = False

    @property
    def as_json(self) -> bool:
        """Whether results are JSON."""
        words = list(self.argv)
        options = words[: words.index("--")] if "--" in words else words
        return self.json_default or "--json" in options

    def origin(self, field: str | None) -> str:
        """What to add to an error about a field whose value nobody typed: where it is set."""
        return f" ({self.origins[field]})" if field is not None and field in self.origins else ""
