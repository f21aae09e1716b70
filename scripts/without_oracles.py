"""A plug-in of pytest for `scripts/versions lowest`: what imports an oracle of the parity tests is skipped.

The oracles are not installed there, since their own demands would raise the versions that are to be tested. A file of
tests that imports one at its top is skipped whole.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

ORACLES = {"diffusers", "transformers", "peft", "torchsde"}


class SkipOracles(MetaPathFinder):
    """Skips whatever test, fixture or file of tests imports an oracle."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in ORACLES:
            pytest.skip(f"needs the oracle {fullname}", allow_module_level=True)
        return None


sys.meta_path.insert(0, SkipOracles())
