"""A browser's tab, as a person would use it, which remembers everything that went wrong in it."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Request, Response

from page.served import PageServer

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
# No process is started ahead for a page that may come: each test opens one. Of two such options the last holds, so that
# those of Playwright's that matter here are in it again.
WITHOUT = (
    *("SpareRendererForSitePerProcess", "PaintHolding", "HttpsUpgrades", "HttpsFirstBalancedModeAutoEnable"),
    *("MediaRouter", "OptimizationHints", "NetworkTimeServiceQuerying", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    *("DestroyProfileOnBrowserClose", "ThirdPartyStoragePartitioning", "AvoidCorsURLLoaderRestartOnRedirect"),
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),  # pages of the browser's own, loaded anew for every context
)
ARGUMENTS = [
    *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"),
    f"--disable-features={','.join(WITHOUT)}",
]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
WAIT = 60_000  # milliseconds that something may take to appear, on a machine that does much else
VIEWS = ("draw", "change", "library", "models", "queue", "grids")

# Before any script of the page: what it says about itself, for the tests of speed and safety.
WATCH = """
window.__seen = {shifts: [], interactions: [], violations: [], xss: 0};
document.addEventListener('securitypolicyviolation', event =>
  window.__seen.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}`));
new PerformanceObserver(list => { for (const one of list.getEntries()) window.__seen.shifts.push({
  value: one.value, input: one.hadRecentInput, at: one.startTime,
  what: one.sources.map(source => source.node && source.node.outerHTML
    ? source.node.outerHTML.slice(0, 120) : String(source.node && source.node.nodeName)),
}); }).observe({type: 'layout-shift', buffered: true});
new PerformanceObserver(list => { for (const one of list.getEntries()) if (one.interactionId)
  window.__seen.interactions.push({id: one.interactionId, ms: one.duration, name: one.name});
}).observe({type: 'event', durationThreshold: 16, buffered: true});
"""


class Tab:
    """One tab.

    page    Playwright's
    faults  what a developer's console would show in red, and what the content policy refused
    """

    def __init__(self, server: PageServer, context: BrowserContext) -> None:
        self.server, self.context = server, context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.faults: list[str] = []
        self._allowed: list[re.Pattern[str]] = []
        self._leaving = False
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)

    # ---- what goes wrong ---------------------------------------------------------------------------------------------

    def allow(self, pattern: str) -> None:
        """Say that a fault is expected here, such as the refusal that the test provokes."""
        self._allowed.append(re.compile(pattern))

    def check(self) -> None:
        """Raises AssertionError for every fault that is not expected."""
        found = (
            [] if self.page.is_closed() else self.page.evaluate("() => window.__seen ? window.__seen.violations : []")
        )
        faults = [*self.faults, *(f"content policy: {one}" for one in found)]
        faults = [one for one in faults if not any(allowed.search(one) for allowed in self._allowed)]
        assert not faults, "\n".join(faults)

    def _on_console(self, message: ConsoleMessage) -> None:
        # A refusal is in the console without its reason; `_on_response` has it.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.faults.append(f"console {message.type}: {message.text} ({message.location.get('url')})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.server.address, "data:", "blob:")):
            self.faults.append(f"asks another place: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.request.method} {response.url}")

    # ---- going about -------------------------------------------------------------------------------------------------

    def open(self, route: str = "draw") -> None:
        """Open a view, from outside or from another view, and wait until it shows its first data."""
        self.page.goto(f"{self.server.address}/#/{route}", wait_until="commit")
        self.shown(re.split("[/?]", route)[0])

    def reload(self, view: str = "draw") -> None:
        self.page.reload(wait_until="commit")
        self.shown(view)

    def shown(self, view: str) -> Locator:
        """The root of a view, once it is there."""
        root = self.page.locator(f'[data-view="{view}"]')
        root.wait_for(state="attached")
        return root

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name, exact=isinstance(name, str))

    def field(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_label(name, exact=isinstance(name, str))

    def number(self, name: str) -> Locator:
        """A field for a number, beside which there may be a slider of the same name."""
        return self.page.get_by_role("spinbutton", name=name, exact=True)

    def js(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def paste_files(self, selector: str, files: list[tuple[str, str, bytes]]) -> None:
        """Drop files onto an element: name, MIME type and bytes of each, as a file manager does."""
        plain = [{"name": name, "type": kind, "bytes": list(data)} for name, kind, data in files]
        self.page.locator(selector).first.evaluate(
            """(element, files) => {
              const moved = new DataTransfer();
              for (const one of files)
                moved.items.add(new File([new Uint8Array(one.bytes)], one.name, {type: one.type}));
              for (const name of ['dragenter', 'dragover', 'drop'])
                element.dispatchEvent(new DragEvent(name, {dataTransfer: moved, bubbles: true, cancelable: true}));
            }""",
            plain,
        )

    # ---- what it is like ---------------------------------------------------------------------------------------------

    def axe(self, rules: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What axe-core finds here that is serious or critical, by these rules of it or by all."""
        if not self.js("() => 'axe' in window"):
            self.js(AXE.read_text(encoding="utf-8") + "; undefined")
        # Fading in, a view has not yet the colours that it is going to have.
        self.js(
            "() => Promise.allSettled(document.getAnimations().filter(one => one.effect.getComputedTiming()"
            ".iterations < 9).map(one => one.finished))"
        )
        only = {} if rules is None else {"runOnly": list(rules)}
        found = self.js("only => axe.run(document, {resultTypes: ['violations'], ...only})", only)
        return [one for one in found["violations"] if one["impact"] in ("serious", "critical")]

    def shifts(self, *, after: float = 0.0) -> list[dict[str, Any]]:
        """Layout shifts since then, in milliseconds of the page's clock; also those after a click."""
        return [one for one in self.js("() => window.__seen.shifts") if one["at"] >= after]

    def now(self) -> float:
        return float(self.js("() => performance.now()"))

    def slow_interactions(self) -> list[float]:
        """Milliseconds from each key or click to the next paint; what takes less than 16 does not appear."""
        worst: dict[int, float] = {}
        for one in self.js("() => window.__seen.interactions"):
            worst[one["id"]] = max(worst.get(one["id"], 0.0), one["ms"])
        return sorted(worst.values())

    def heap(self) -> tuple[float, int]:
        """Megabytes of JavaScript that are in use after a collection of garbage, and nodes of the document."""
        session = self.context.new_cdp_session(self.page)
        try:
            session.send("HeapProfiler.enable")
            session.send("HeapProfiler.collectGarbage")
            session.send("Performance.enable")
            numbers = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        finally:
            session.detach()
        return numbers["JSHeapUsedSize"] / 2**20, int(numbers["Nodes"])


@contextmanager
def opened(server: PageServer, browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """A browser without a past: its storage is empty."""
    given = {"viewport": DESKTOP, "locale": "en-GB", "color_scheme": "light"} | options
    context = browser.new_context(base_url=server.address, **given)
    context.add_init_script(WATCH)
    try:
        yield context
    finally:
        context.close()
