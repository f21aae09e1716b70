"""What the tests of the page share: one real server a process, one browser a file, a tab a test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from page.served import PageServer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the default model, warm: it has drawn a picture. It is shared, so `server` empties it."""
    made = PageServer(tmp_path_factory.mktemp("page"))
    try:
        made.start()
        made.drawn()
        yield made
    finally:
        made.close()


@pytest.fixture
def server(house: PageServer) -> PageServer:
    """The server, without jobs. A test may kill it."""
    if not house.is_running:
        house.start()
    house.clear()
    return house


@pytest.fixture(scope="module")  # Playwright's event loop runs until it ends, and other tests could start none
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    from page.browsing import ARGUMENTS

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def tabs(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens tabs: `tabs(server, **options of the browser's context)`. Each is checked for faults at the end.

    Tabs of one call share nothing; `tabs(server, beside=tab)` opens a second tab beside another.
    A picture of what they show is left behind where the test has failed.
    """
    from page.browsing import Tab, opened

    made: list[Tab] = []
    with ExitStack() as stack:

        def make(server: PageServer, *, beside: Tab | None = None, **options: Any) -> Tab:
            context = beside.context if beside is not None else stack.enter_context(opened(server, browser, **options))
            made.append(Tab(server, context))
            return made[-1]

        yield make
        failed = request.node.stash.get(FAILED, False)
        if failed:
            for number, tab in enumerate(made):
                if not tab.page.is_closed():
                    path = tmp_path / f"tab{number}.png"
                    tab.page.screenshot(path=path)
                    print(f"the page as it was: {path}\n" + "\n".join(tab.faults))
        else:
            for tab in made:
                tab.check()


@pytest.fixture
def tab(server: PageServer, tabs: Callable[..., Any]) -> Any:
    """A tab with nothing opened in it yet."""
    return tabs(server)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.stash[FAILED] = report.failed
