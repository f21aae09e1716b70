"""Docstrings of the source as the Markdown of the reference: an extension of griffe (see mkdocs.yml).

The source is written for an editor, where columns stand under each other and a field has its comment behind it:

    name        key or alias in PREPROCESSORS
    size        width and height of the hint, in pixels

    seed: int | None = None  # 0 to 2**64 - 1

The reference shows such columns as a list, and such a comment as the docstring of the field. What a method assigns to
`self` without a type or a word of explanation is not shown.
"""

import io
import re
import tokenize
from typing import Any

import griffe

COLUMNS = re.compile(r"^(\w[\w*, ]*?)\s{2,}(\S.*)$")


def as_list(block: str) -> str:
    """A paragraph whose lines stand in two columns as a list; any other line as it is."""
    lines: list[str] = []
    in_list = False
    for line in block.splitlines():
        match = COLUMNS.match(line)
        if match or not (in_list and line.startswith(" ")):
            if bool(match) != in_list and lines:
                lines.append("")  # Markdown wants one before and behind a list
            in_list = bool(match)
        lines.append(f"- `{match[1]}`: {match[2]}" if match else f"    {line.strip()}" if in_list else line)
    return "\n".join(lines)


def outside_code(text: str) -> str:
    """Signs that Markdown would take for HTML, outside backquotes."""
    return re.sub(r"(`[^`]*`)|<", lambda match: match[1] or "&lt;", text)


def markdown(docstring: str) -> str:
    return "\n\n".join(outside_code(as_list(block)) for block in re.split(r"\n\s*\n", docstring.strip("\n")))


def comment_behind(source: str) -> str | None:
    """The comment at the end of a statement."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, IndentationError):
        return None
    comments = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return comments[-1] if comments else None


class Markdown(griffe.Extension):
    def on_class_members(self, *, cls: griffe.Class, **_kwargs: Any) -> None:
        for name, member in list(cls.attributes.items()):
            if "instance-attribute" in member.labels and member.annotation is None and member.docstring is None:
                del cls.members[name]

    def on_instance(self, *, obj: griffe.Object, **_kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_kwargs: Any) -> None:
        if attr.docstring is None and (comment := comment_behind("\n".join(attr.source.splitlines()))):
            words = comment[0].upper() + comment[1:]
            attr.docstring = griffe.Docstring(outside_code(words), parent=attr, lineno=attr.lineno)
