"""Finds a sampler or a schedule by the name that any tool gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Named(Protocol):
    """A row with a label and other names."""

    @property
    def label(self) -> str:
        """What A1111 calls it."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """What other tools call it."""


def resolve(name: str, table: Mapping[str, Named]) -> str | None:
    """The key in SAMPLERS or SCHEDULES that a user or another tool means; None if it is unknown.

    Case, spaces, hyphens and underscores do not count: "DPM++ 2M", "dpm++_2m" and "dpmpp_2m" are one sampler.
    """
    if name in table:
        return name
    wanted = _plain(name)
    for key, row in table.items():
        if wanted in {_plain(text) for text in (key, row.label, *row.aliases)}:
            return key
    return None


def _plain(text: str) -> str:
    return "".join(char for char in text.lower().replace("++", "pp") if char.isalnum())
