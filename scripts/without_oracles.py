"""A plug-in of pytest for `scripts/versions lowest`: a test that imports an oracle of the parity tests is skipped.

The oracles are not installed there, since their own demands would raise the versions that are to be tested.
"""

from collections.abc import Generator

import pytest

ORACLES = {"diffusers", "transformers", "peft", "torchsde"}


def _skipping() -> Generator[None, object, object]:
    try:
        return (yield)
    except ModuleNotFoundError as error:
        oracle = (error.name or "").partition(".")[0]
        if oracle not in ORACLES:
            raise
        pytest.skip(f"needs the oracle {oracle}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    return (yield from _skipping())
