"""scripts/setup with a stand-in for Python that records what pip is asked for: no installation, no network."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the set-up is a bash script")
no_card_here = pytest.mark.skipif(
    Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None, reason="this machine has an NVIDIA card"
)

# Answers every question that scripts/setup asks of a Python; `python -m venv` copies the stand-in into the environment.
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
  *"sys.version_info < (3, 11)"*) ;;
  *"import venv, ensurepip"*) [ -z "${WITHOUT_ENSUREPIP:-}" ] ;;
  *"sys.version_info[:2]"*) echo 3.12 ;;
  --version) echo Python 3.12.1 ;;
  "-m venv --clear "*) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip --version") ;;
  *'m.version("torch")'*) [ -n "${TORCH_IS_THERE:-}" ] ;;
  "-m pip index versions torch") printf 'torch (9.9.9)\nAvailable versions: %s\n' "$VERSIONS" ;;
  "-m pip install "*) echo "$*" >>"$ASKED"; exit "${PIP_FAILS:-0}" ;;
  *) echo "unexpected question: $*" >&2; exit 97 ;;
esac
"""
VERSIONS = "3.1.0+cpu, 3.1.0, 2.15.0, 2.14.1, 2.13.0+cpu, 2.13.0, 2.9.1+cpu, 2.4.1+cpu, 1.12.1"

Setup = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path):
    """What the set-up reads of a checkout, in a folder whose name has a space; the stand-in is the only Python."""
    folder = tmp_path / "a checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "python3"
    stand_in.write_text(STAND_IN, encoding="utf-8")
    stand_in.chmod(0o755)
    return folder


@pytest.fixture
def setup(checkout) -> Setup:
    def run(*words: str, folder: Path = checkout, **more: str) -> subprocess.CompletedProcess[str]:
        folders = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
        given = {"PATH": folders, "VERSIONS": VERSIONS, "ASKED": str(checkout.parent / "asked"), **more}
        return subprocess.run(
            ["bash", folder / "scripts" / "setup", *words], env=given, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def asked(checkout) -> Callable[[], list[str]]:
    """The calls of `pip install` since the last look, without what they all share."""

    def look() -> list[str]:
        path = checkout.parent / "asked"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.removeprefix("-m pip install --quiet --disable-pip-version-check ") for line in lines]

    return look


@no_card_here
def test_without_a_card_the_newest_cpu_build_in_range(setup, asked):
    done = setup()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", "stdout belongs to results"
    assert asked() == ["torch==2.13.0+cpu --editable .[hints]"]


@no_card_here
def test_without_a_cpu_build_the_range_decides(setup, asked):
    done = setup(VERSIONS="2.15.0, 2.13.0")
    assert done.returncode == 0, done.stderr
    assert asked() == ["--editable .[hints]"]


def test_with_a_card_the_newest_other_build_in_range(setup, asked, checkout):
    tool = checkout.parent / "bin" / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    tool.chmod(0o755)
    assert setup().returncode == 0
    assert asked() == ["torch==2.15.0 --editable .[hints]"]


def test_a_torch_that_is_there_stays_and_a_named_one_wins(setup, asked):
    assert setup(TORCH_IS_THERE="yes").returncode == 0
    assert asked() == ["--editable .[hints]"]
    assert setup("--dev", GESSO_TORCH="torch==2.7.0").returncode == 0
    assert asked() == ["torch==2.7.0 --editable .[dev]"]


def test_done_once_until_the_project_changes_or_moves(setup, asked, checkout):
    assert setup("--dev", TORCH_IS_THERE="yes").returncode == 0
    assert len(asked()) == 1
    for words in ([], ["--dev"]):  # the test tools include what drawing needs
        again = setup(*words)
        assert (again.returncode, again.stdout, again.stderr, asked()) == (0, "", "", [])

    with (checkout / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert setup(TORCH_IS_THERE="yes").returncode == 0
    assert asked() == ["--editable .[hints]"]

    marker = checkout / ".venv" / "marker"
    marker.touch()
    moved = checkout.rename(checkout.parent / "moved")
    assert setup(folder=moved, TORCH_IS_THERE="yes").returncode == 0
    assert asked() == ["--editable .[hints]"]
    assert not (moved / ".venv" / "marker").exists(), "scripts inside a virtual environment name the old place"


def test_what_was_cut_off_is_taken_up_again(setup, asked):
    failed = setup(TORCH_IS_THERE="yes", PIP_FAILS="1")
    assert failed.returncode == 1
    assert "pip could not install gesso" in failed.stderr
    assert setup(TORCH_IS_THERE="yes").returncode == 0
    assert len(asked()) == 2


def test_a_python_without_ensurepip_names_the_package(setup, asked):
    done = setup(PYTHON="python3", WITHOUT_ENSUREPIP="yes")
    assert done.returncode == 1
    assert "sudo apt install python3-venv (or python3.12-venv)" in done.stderr
    assert asked() == []


def test_no_python(setup):
    done = setup(PYTHON="/nonexistent/python3")
    assert done.returncode == 1
    assert "not a Python of version 3.11 or newer" in done.stderr


def test_the_range_of_torch_is_the_one_that_the_script_knows():
    """scripts/setup picks from 2.5 up to below 3 by a pattern."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert "torch>=2.5,<3" in needs
