"""Screenshots of every view, for docs/page: `python -m page.shots FOLDER [VIEW...]` in tests/, with gesso installed."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from page.browsing import ARGUMENTS, PHONE, Tab, opened
from page.conftest import CHROMIUM
from page.pictures import embedding
from page.served import PageServer

WAYS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True, "is_mobile": True},
}
PROMPTS = (
    ("a red car on a green background", 3),
    ("a blue house", 5),
    ("two green apples", 11),
    ("a yellow flower", 4),
    ("a purple umbrella", 8),
    ("a small dog", 2),
    ("a red mushroom", 6),
    ("an orange clock", 7),
    ("a blue car", 9),
    ("a green tree <lora:woodcut:1>", 12),
    ("a red house <lora:comic:1>", 10),
)
GRID = {
    "job": {"request": {"prompt": "a red car", "seed": 7}, "metadata": {"order": ["steps", "guidance"]}},
    "axes": ["steps=4,8,20", "guidance=1-7(+2)"],
}


def furnish(server: PageServer) -> dict[str, str]:
    """Pictures, a board, a grid, something that was stopped, a model that was added. -> routes by names of views"""
    notes = {"modelspec.license": "CC0-1.0", "modelspec.trigger_phrase": "ink and wash", "modelspec.title": "Ink"}
    headers = {"Content-Type": "application/octet-stream"}
    server.api.post("/v1/models?name=ink.safetensors", content=embedding(notes), headers=headers, timeout=120)
    stopped = server.submit({"prompt": "a castle in the clouds", "num_steps": 200})
    server.api.post(f"/v1/jobs/{stopped['id']}/cancel")
    grid = server.api.post("/v1/batches", json=GRID).json()
    for job in grid["jobs"]:
        server.wait(job, "succeeded")
    jobs = [
        server.drawn({"prompt": text, "seed": seed, "num_steps": 20, "num_images": 4 if number % 4 == 3 else 1})
        for number, (text, seed) in enumerate(PROMPTS)
    ]
    last = server.drawn({"prompt": "a red car on a yellow background", "seed": 7, "num_steps": 20, "num_images": 4})
    pictures = [job["outputs"][0]["id"] for job in jobs]
    server.api.post("/v1/images/changes", json={"images": pictures[:3], "starred": True})
    board = server.api.post("/v1/boards", json={"name": "For the kitchen"}).json()
    server.api.post("/v1/images/changes", json={"images": pictures[2:5], "add_to": board["id"]})
    return {
        "draw": "draw",
        "simple": "draw",
        "change": f"change/{pictures[1]}",
        "library": "library",
        "picture": f"picture/{last['outputs'][0]['id']}",
        "compare": "library",
        "models": "models",
        "grids": "grids",
        "grid": f"grids/{grid['id']}",
        "history": "history",
        "queue": "queue",
    }


def paint(tab: Tab) -> None:
    """A stroke over the middle of the canvas."""
    box = tab.page.locator('[aria-label^="Canvas"]').first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for turn in (-20, 10):
        tab.page.mouse.move(x - 60, y + turn)
        tab.page.mouse.down()
        tab.page.mouse.move(x + 60, y + turn + 15, steps=8)
        tab.page.mouse.up()


def compare(tab: Tab) -> None:
    """Two pictures that were selected in the library."""
    tab.button("Select").click()
    for place in (0, 3):
        tab.page.locator("[data-picture]").nth(place).click()
    tab.button("Compare").click()
    tab.page.get_by_text("What differs").first.wait_for()


def example(tab: Tab) -> None:
    """A grid about to be drawn."""
    tab.field("Prompt").fill("a red car")
    for name, setting, values in (("Columns", "steps", "4, 8, 20"), ("Rows", "guidance", "1-7 (+2)")):
        group = tab.page.get_by_role("group", name=name)
        group.get_by_label("Setting").select_option(setting)
        group.get_by_label("Values", exact=True).fill(values)
    tab.page.locator('[data-plan="known"]').wait_for()


def simple(tab: Tab) -> None:
    """The page with one field that is made of the form."""
    tab.button("Make a simple page of this").click()
    sheet = tab.page.get_by_role("dialog")
    sheet.get_by_label("What it is called", exact=True).fill("Cars at night")
    sheet.get_by_label("Always added behind what is written", exact=True).fill(" on a black background")
    tab.open(sheet.get_by_label("Its address", exact=True).input_value().partition("/#/")[2])
    tab.field("What should it be?").fill("a red car")


BEFORE: dict[str, Callable[[Tab], None]] = {"change": paint, "compare": compare, "grids": example, "simple": simple}


def take(server: PageServer, browser: Any, folder: Path, name: str, route: str) -> None:
    """One view in every way."""
    for way, options in WAYS.items():
        with opened(server, browser, **options) as context:
            tab = Tab(server, context)
            tab.open(route)
            tab.page.wait_for_timeout(500)
            tab.page.wait_for_timeout(700)
            if name in BEFORE:
                BEFORE[name](tab)
                tab.page.wait_for_timeout(700)
            tab.page.wait_for_function(
                "() => [...document.images].every(one => one.complete || one.loading === 'lazy')"
            )
            tab.page.wait_for_timeout(1500)
            path = folder / f"{name}-{way}.png"
            tab.page.screenshot(path=path)
            with Image.open(path) as image:
                image.convert("RGB").save(path, optimize=True)
            if tab.faults:
                print(name, way, *tab.faults, sep="\n  ")


def main() -> None:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        server = PageServer(Path(place))
        try:
            server.start()
            if not wanted or "first" in wanted:
                take(server, browser, folder, "first", "draw")
            for name, route in furnish(server).items():
                if not wanted or name in wanted:
                    take(server, browser, folder, name, route)
        finally:
            server.close()
            browser.close()


if __name__ == "__main__":
    main()
