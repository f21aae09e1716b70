"""The page's files as the server gives them, whether they are fresh, and when a browser is opened."""

import gzip
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gesso.server.page.browser import has_display, is_wanted
from gesso.server.page.files import ASSETS, FOLDER, INDEX, page_files
from serving.served import client, context

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
# As in web/sources.ts.
FILES = ("index.html", "package-lock.json", "package.json", "svelte.config.js", "tsconfig.json", "vite.config.ts")
HTML = {"Accept": "text/html,application/xhtml+xml"}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digests() -> dict[str, str]:
    lines = (ASSETS / "sources.sha256").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


@pytest.mark.skipif(not WEB.is_dir(), reason="not a checkout: web/ is not there")
def test_the_built_page_is_that_of_its_sources() -> None:
    below = [str(path.relative_to(WEB).as_posix()) for path in (WEB / "src").rglob("*") if path.is_file()]
    names = sorted([*FILES, *(name for name in below if not re.search(r"\.(test|d)\.ts$", name))])
    lines = "".join(f"{_sha256((WEB / name).read_bytes())}  {name}\n" for name in names)
    assert _sha256(lines.encode()) == _digests()["sources"], "build the page anew: cd web && npm ci && npm run build"


def test_the_built_files_are_those_of_the_build() -> None:
    told = _digests()
    del told["sources"]
    there = {path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*") if path.is_file()}
    assert there - {"sources.sha256"} == set(told)
    assert {name: _sha256((ASSETS / name).read_bytes()) for name in told} == told


def test_the_first_load_is_small() -> None:
    """What index.html names and the view Draw, as they go over the wire: at most 250 kB."""
    files = page_files()
    index = files[INDEX]
    named = re.findall(rf'"\./{FOLDER}/([^"]+)"', index.data.decode())
    named += [name for name in files if name.startswith("Draw-")]
    assert any(name.endswith(".js") for name in named) and any(name.endswith(".css") for name in named)
    assert sum(len(files[name].packed or files[name].data) for name in named) <= 250_000
    assert len(index.packed or index.data) < 2_000


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[httpx.Client]:
    with context(tmp_path) as made, client(made) as asking:
        yield asking


def test_a_browser_gets_the_page_and_a_program_the_name(asking: httpx.Client) -> None:
    page = asking.get("/", headers=HTML)
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert '<div id="page"></div>' in page.text
    program = asking.get("/", headers={"Accept": "*/*"})
    assert program.json()["name"] == "gesso"
    again = asking.get("/", headers=HTML | {"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_files_are_kept_for_ever_and_packed_where_that_is_taken(asking: httpx.Client) -> None:
    page = asking.get("/", headers=HTML).text
    for name in re.findall(rf'"\./({FOLDER}/[^"]+)"', page):
        plain = asking.get(f"/{name}", headers={"Accept-Encoding": "identity"})
        assert plain.status_code == 200 and "immutable" in plain.headers["cache-control"], name
        assert "content-encoding" not in plain.headers
        refused = asking.get(f"/{name}", headers={"Accept-Encoding": "gzip;q=0"})
        assert "content-encoding" not in refused.headers
        packed = page_files()[name.removeprefix(f"{FOLDER}/")].packed
        if packed is not None:
            answer = asking.get(f"/{name}", headers={"Accept-Encoding": "br, gzip"})
            assert answer.headers["content-encoding"] == "gzip"
            assert answer.content == plain.content == gzip.decompress(packed)
        assert asking.head(f"/{name}").status_code == 200


def test_nothing_but_what_was_built_is_given(asking: httpx.Client) -> None:
    for name in ("index.html", "..%2Fsources.sha256", "%2e%2e%2ffiles.py", "none.js"):
        assert asking.get(f"/{FOLDER}/{name}").status_code == 404, name


def test_the_page_runs_no_code_but_its_own(asking: httpx.Client) -> None:
    page = asking.get("/", headers=HTML)
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", page.text), "the policy would refuse it"


def test_a_link_elsewhere_leads_to_the_page_and_to_nothing_else(asking: httpx.Client) -> None:
    link = HTML | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert asking.get("/", headers=link).status_code == 200
    assert asking.get("/v1/models", headers=link).status_code == 403
    assert asking.get("/", headers=link | {"Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert asking.get("/", headers=link | {"Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert asking.post("/", headers=link).status_code in (403, 405)
    foreign = link | {"Origin": "https://example.org"}
    assert asking.get("/", headers=foreign).status_code == 403


def test_the_page_needs_no_key(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made, "wrong") as asking:
        made.keys.add("anna")
        assert asking.get("/v1/models").status_code == 401
        assert asking.get("/", headers=HTML).status_code == 200


@pytest.mark.parametrize(
    ("environment", "platform", "shown"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22"}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_TTY": "/dev/ttys001"}, "darwin", False),
        ({}, "win32", True),
    ],
)
def test_a_browser_opens_only_where_it_is_seen(environment: dict[str, str], platform: str, shown: bool) -> None:
    assert has_display(environment, platform) is shown


def test_a_browser_opens_for_people_alone() -> None:
    assert is_wanted(True, is_terminal=True, display=True)
    assert not is_wanted(True, is_terminal=False, display=True), "a script or a service"
    assert not is_wanted(False, is_terminal=True, display=True), "--no-browser"
    assert not is_wanted(True, is_terminal=True, display=False)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo terminals")
@pytest.mark.parametrize(("options", "opened"), [((), True), (("--no-browser",), False)])
@pytest.mark.sampled(2)
def test_a_server_in_a_terminal_opens_the_page_unless_it_is_told_not_to(
    tmp_path: Path, options: tuple[str, ...], opened: bool
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{tmp_path}/asked"\n', encoding="utf-8")
    browser.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
    environment |= {"DISPLAY": ":99", "BROWSER": str(browser), "GESSO_HOME": str(tmp_path)}
    outer, inner = os.openpty()
    words = [sys.executable, "-m", "gesso", "serve", "--port", "0", "--workers", "0", "--home", str(tmp_path), *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=inner, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert httpx.get(address, headers=HTML, timeout=30).status_code == 200
        end = time.monotonic() + (20 if opened else 1)
        while time.monotonic() < end and not (tmp_path / "asked").exists():
            time.sleep(0.05)
        assert (tmp_path / "asked").exists() is opened
        if opened:
            assert (tmp_path / "asked").read_text(encoding="utf-8") in ("", address)  # it may not be written yet
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        process.stdout.close()
        os.close(outer)
        os.close(inner)
