"""What the tests of the page share: one real server and one browser a process, a tab a test."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from page.served import PageServer

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = pytest.StashKey[tuple[Any, ExitStack]]()
HOUSE = pytest.StashKey[PageServer]()


@pytest.fixture(scope="session")
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the default model, warm: it has drawn a picture. It is shared, so `server` empties it."""
    made = PageServer(tmp_path_factory.mktemp("page"))
    request.session.stash[HOUSE] = made
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


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Any:
    """Chromium, without a window. It is there until the last test of this folder: `pytest_runtest_teardown`."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt install chromium")
    stash = request.session.stash
    if BROWSER not in stash:
        from playwright.sync_api import sync_playwright

        from page.browsing import ARGUMENTS

        with ExitStack() as stack:
            playwright = stack.enter_context(sync_playwright())
            running = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            stack.callback(running.close)
            stash[BROWSER] = running, stack.pop_all()
    return stash[BROWSER][0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The browser ends with the tests of this folder: while Playwright's event loop runs, others could start none. So
    does the server, whose processes would look for work until the session ends."""
    if nextitem is not None and HERE in nextitem.path.parents:
        return
    if BROWSER in item.session.stash:
        item.session.stash[BROWSER][1].close()
        del item.session.stash[BROWSER]
    if HOUSE in item.session.stash:
        item.session.stash[HOUSE].stop()


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
