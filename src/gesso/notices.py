"""Notices: warnings about a result, such as ignored settings."""

from collections.abc import Mapping
from typing import Any

RECORDED = "recorded"  # of a notice that was read from a recipe: which it was is not kept there


class Notice(str):
    """A notice: a string with a code. It names fields in backticks, as errors do.

    code   stable, for programs and translations: one of those in docs/errors.md
    field  the field of the request or the argument that the notice is about, or None
    data   details of the text, as JSON values
    """

    code: str
    field: str | None
    data: Mapping[str, Any]

    def __new__(
        cls, text: str, *, code: str, field: str | None = None, data: Mapping[str, Any] | None = None
    ) -> "Notice":
        notice = super().__new__(cls, text)
        notice.code, notice.field, notice.data = code, field, dict(data or {})
        return notice

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:  # what copy and pickle make it from
        return (str(self),), {"code": self.code, "field": self.field, "data": self.data}

    def reworded(self, text: str) -> "Notice":
        """The same notice in other words: with more around it, or cut short."""
        return Notice(text, code=self.code, field=self.field, data=self.data)
