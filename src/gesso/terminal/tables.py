"""Tables in plain text."""

from collections.abc import Iterator, Sequence

from gesso.errors import one_line


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, cells below each other; names come from plug-ins too, so no control character is left."""
    clean = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*clean, strict=True)]
    for row in clean:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def matches(words: Sequence[str], *texts: str) -> bool:
    """Whether every word is part of one of the texts; case does not count."""
    return all(any(word.casefold() in text.casefold() for text in texts) for word in words)
