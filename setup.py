"""The one thing that pyproject.toml cannot say: README as a package index shows it.

Links in README are relative, so that they work in a checkout, in a fork and in the site of the documentation. On an
index they would lead nowhere, and gesso has no address of its own that could be put before them. So the text goes there
without pictures, and a link becomes its words; they name the file.
"""

import re
from pathlib import Path

from setuptools import setup

PICTURE = re.compile(
    r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n(\*[^*\n][^*]*\*\n\n)?"
)  # with the caption in italics below it
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


def for_an_index(text: str) -> str:
    return LINK.sub(r"\1", PICTURE.sub("", text))


setup(
    long_description=for_an_index((Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
