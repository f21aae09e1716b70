"""What pyproject.toml cannot say: README as a package index shows it, and kernels that are left out without a compiler.

Links in README are relative, so that they work in a checkout, in a fork and in the site of the documentation. On an
index they would lead nowhere, and gesso has no address of its own that could be put before them. So the text goes there
without pictures, and a link becomes its words; they name the file.
"""

import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

PICTURE = re.compile(
    r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n(\*[^*\n][^*]*\*\n\n)?"
)  # with the caption in italics below it
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


def for_an_index(text: str) -> str:
    return LINK.sub(r"\1", PICTURE.sub("", text))


class BuildKernels(build_ext):
    """A library with a C interface: of any Python, and without a module's entry point."""

    def get_ext_filename(self, name: str) -> str:
        return name.replace(".", "/") + ".so"

    def get_export_symbols(self, extension: Extension) -> list[str]:
        return []


class Wheel(bdist_wheel):
    """One wheel of a platform for every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


# OpenMP's functions are those of the library that torch has loaded already: two of them would fight for the processor.
KERNELS = Extension(
    "gesso.runtime._kernels",
    ["src/gesso/runtime/attention.cpp", "src/gesso/runtime/layers.cpp"],
    extra_compile_args=["-O3", "-std=c++17", "-fopenmp", "-fvisibility=default"],
    optional=True,  # no compiler, or one that does not know the instructions
)

setup(
    ext_modules=[KERNELS] if sys.platform == "linux" else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
    long_description=for_an_index((Path(__file__).parent / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
