"""The site of the documentation builds, fetches nothing and shows every public name; the picture of rooms is fresh."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import gesso

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def build(*words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VIRTUAL_ENV": sys.prefix}
    command = ["bash", str(ROOT / "scripts" / "docs"), "build", *map(str, words)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build("--site-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_nothing_is_fetched_from_elsewhere(site):
    """Links may lead out; scripts, styles, fonts and pictures may not come from there."""
    foreign = re.compile(
        r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
        r"""<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//"""
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if foreign.search(page.read_text(encoding="utf-8"))] == []
    styles = [
        path
        for path in site.rglob("*.css")
        if re.search(r"url\(['\"]?https?:|@import", path.read_text(encoding="utf-8"))
    ]
    assert styles == []


@pytest.mark.slow
def test_options_in_running_text_are_not_broken_at_their_hyphens(site):
    words = script("site_pages").words_kept_whole
    assert words("<p>a-b <code>--set a-b=<em>c-d</em> x</code></p>") == (
        '<p>a-b <code><span class="whole">--set</span> <span class="whole">a-b=</span>'
        '<em><span class="whole">c-d</span></em> x</code></p>'
    )
    assert words(f"<code>{'a-' * 40}</code>") == f"<code>{'a-' * 40}</code>"
    page = (site / "upscaling.html").read_text(encoding="utf-8")
    assert '<code><span class="whole">--tile</span>' in page
    assert not [block for block in re.findall(r"<pre\b.*?</pre>", page, re.DOTALL) if 'class="whole"' in block]
    assert ".whole" in (site / "site.css").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_reference_has_every_public_name(site):
    anchors = set()
    for page in (site / "reference").glob("*.html"):
        anchors |= set(re.findall(r'id="gesso\.([\w.]+)"', page.read_text(encoding="utf-8")))
    assert set(gesso.__all__) - {"__version__"} <= anchors


@pytest.mark.slow
def test_files_outside_docs_are_carried_into_the_site(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="cli.html"' in start
    assert 'href="repository/LICENSE.txt"' in start
    assert (site / "repository" / "LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert "gesso-mini" in (site / "repository/src/gesso/data/gesso-mini.html").read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_fails(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Page\n\n[gone](nowhere.md) and [anchor](#nothing)\n", encoding="utf-8")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    text = text[: text.index("\nhooks:")] + text[text.index("\nmarkdown_extensions:") : text.index("\nnav:")]
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    done = build("--config-file", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert "#nothing" in done.stderr


def test_docstrings_of_rooms_have_a_caption():
    """`What the room is: what it holds.`; the words before the colon stand in the picture."""
    wrong = {
        name: room.docstring
        for name, room in script("architecture_picture").rooms().items()
        if not re.fullmatch(r"[^:]{4,46}: .+\.|Errors .+\.", room.docstring)
    }
    assert wrong == {}


def test_the_picture_of_the_rooms_is_fresh():
    assert script("architecture_picture").stale() == [], "make them again: scripts/architecture"


def test_no_label_of_the_picture_overlaps_another():
    """Boxes lie apart and within the picture, so words that fit into their box cannot meet."""
    picture = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
    boxes = [
        tuple(map(int, box))
        for box in re.findall(r'</title><rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"', picture)
    ]
    assert len(boxes) == len(re.findall("data-room", picture)) > 15
    for index, (left, top, wide, high) in enumerate(boxes):
        assert left >= 0
        assert left + wide <= width
        assert top + high <= height
        for other_left, other_top, other_wide, other_high in boxes[index + 1 :]:
            apart = (
                left + wide < other_left
                or other_left + other_wide < left
                or top + high < other_top
                or other_top + other_high < top
            )
            assert apart


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_files_that_the_page_names_exist(page):
    """`cli/main.py` means that of src/gesso."""
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", text)
    assert [name for name in names if not any((base / name).exists() for base in (ROOT, ROOT / "src" / "gesso"))] == []
