"""Ten thousand random files for each reader in every run of the tests; a million with `pytest -m fuzz`."""

import os
import random
import time

import pytest

pytest.importorskip("resource", reason="limits of a process are POSIX")

from fuzz import engine
from fuzz.engine import FuzzError, Target, fuzz
from fuzz.targets import TARGETS
from gesso.checkpoints.errors import ModelFileError


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.sampled(2)
def test_ten_thousand_files(name: str) -> None:
    outcome = fuzz(TARGETS[name], 10_000)
    assert outcome.count == 10_000
    # The files must reach every layer of the reader, and some must be good, or the run would prove nothing.
    assert outcome.reasons["read"] >= 100, outcome.line()
    assert len(outcome.reasons) >= 8, outcome.line()
    assert max(outcome.reasons.values()) < 8000, outcome.line()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_a_million_files(name: str, request: pytest.FixtureRequest) -> None:
    if "fuzz" not in request.config.getoption("markexpr"):
        pytest.skip("minutes for each reader; run with `pytest -m fuzz`")
    outcome = fuzz(TARGETS[name], 1_000_000, seed=int(os.environ.get("FUZZ_SEED", "1")))
    print(outcome.line())


def test_the_same_seed_makes_the_same_files() -> None:
    for target in TARGETS.values():
        assert target.make(random.Random(5)) == target.make(random.Random(5))
        assert target.make(random.Random(5)) != target.make(random.Random(6))


def broken(data: bytes) -> None:
    if data == b"crash":
        raise KeyError("x")
    if data == b"hang":
        while True:
            time.monotonic()
    if data == b"long":
        raise ModelFileError("offsets", "x", "y" * 10_000)


@pytest.mark.parametrize(("data", "message"), [(b"crash", "KeyError"), (b"hang", "CPU"), (b"long", "bound")])
def test_a_failure_is_found(monkeypatch: pytest.MonkeyPatch, data: bytes, message: str) -> None:
    monkeypatch.setattr(engine, "HANG", 0.2)
    inputs = iter([b"fine", data, b"fine"])
    with pytest.raises(FuzzError, match=f"input 1 .*{message}") as caught:
        fuzz(Target("broken", lambda _: next(inputs), broken), 3)
    assert caught.value.data == data
