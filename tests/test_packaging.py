"""The sdist and the wheel build; the wheel draws a picture in a fresh environment; the sdist's tests can be run."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
# Neither part of the project nor of a package: what tools leave in a checkout.
LEFT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "outputs", "runs", "venv", "node_modules", "_kernels.so"
)


def python(*words: object, folder: Path, **env: str) -> str:
    """Standard output of a process that knows nothing of this checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, env={**clean, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("source") / "gesso"
    shutil.copytree(ROOT, folder, ignore=LEFT)
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that is built from it, without asking an index for anything."""
    folder = tmp_path_factory.mktemp("built")
    python(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as the project gives it, for what does not depend on the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    python(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, source, folder=folder)
    (path,) = folder.glob("gesso-*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist's folder."""
    (path,) = built.glob("gesso-*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(path) as archive:
        # The Python of Debian 12, 3.11.2, has no filters yet.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (inner,) = folder.iterdir()
    return inner


@pytest.mark.slow
def test_the_sdist_holds_the_project(unpacked, source):
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    missing = files(source) - files(unpacked)
    left_out = ("build/", "weights/")  # what is made, and what does not ship yet
    assert {name for name in missing if "egg-info" not in name and not name.startswith(left_out)} == set()


def test_the_wheel_has_the_kernels(wheel):
    """For every Python of this platform; without a compiler it would have none."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("kernels are compiled on Linux, by g++")
    assert re.fullmatch(r"gesso-[\w.]+-py3-none-linux_\w+\.whl", wheel.name)
    assert "gesso/runtime/_kernels.so" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_the_tests_of_the_sdist_can_be_run(unpacked):
    """With their helpers, saved numbers and pages: a few of them stand for all."""
    chosen = ["tests/diffusion/test_docs.py", "tests/cli/test_main.py", "-k", "docs or version or reference_page"]
    out = python(sys.executable, "-m", "pytest", "-q", *chosen, folder=unpacked, PYTHONPATH=str(unpacked / "src"))
    assert re.search(r"\d+ passed", out)
    assert "failed" not in out


@pytest.mark.slow
def test_the_wheel_draws_a_picture_where_nothing_else_is(built, tmp_path):
    """A fresh environment whose only package is gesso; torch and the rest are lent to it by the one that runs this."""
    (wheel,) = built.glob("gesso-*.whl")
    env = tmp_path / "env"
    python(sys.executable, "-m", "venv", "--without-pip", env, folder=tmp_path)
    own = env / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", own, "install", "--quiet", "--no-index", "--no-deps"]
    python(*pip, "--disable-pip-version-check", wheel, folder=tmp_path)
    site = Path(python(own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path).strip())
    lent = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "lent.pth").write_text("\n".join(sorted(lent)) + "\n", encoding="utf-8")

    where = python(own, "-c", "import gesso; print(gesso.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(env)
    words = ["generate", "a red car on a yellow background", "--steps", "4", "--seed", "7", "-o", "car.png", "--quiet"]
    out = python(env / "bin" / "gesso", *words, folder=tmp_path, OMP_NUM_THREADS="1")
    assert "car.png seed=7" in out
    with Image.open(tmp_path / "car.png") as picture:
        assert picture.size == (256, 256)
        assert "gesso" in picture.info
        assert len(picture.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_what_an_index_shows_leads_nowhere_wrong(wheel):
    """Relative links and pictures would be dead on a package index."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert text.startswith("# gesso")
    assert "docs/python.md goes on from here." in text
    assert [target for target in re.findall(r"\]\(([^)]*)\)", text) if not target.startswith("https://")] == []
    assert "![" not in text
