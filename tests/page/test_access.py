"""Everybody can use it: axe-core on every view, in light and dark; keys alone; little room."""

import re
from typing import Any

import pytest

from page.browsing import PHONE
from page.served import PageServer

AXES = {"job": {"request": {"prompt": "a red car", "num_steps": 2}}, "axes": ["steps=2,3", "guidance=1,3"]}


@pytest.fixture
def full(server: PageServer) -> dict[str, str]:
    """Something to be seen in every view. -> addresses of views by their names"""
    server.drawn({"prompt": "a green tree", "num_images": 2})
    batch = server.api.post("/v1/batches", json=AXES).json()
    for job in batch["jobs"]:
        server.wait(job, "succeeded")
    stopped = server.submit({"prompt": "a cat", "num_steps": 200})
    server.api.post(f"/v1/jobs/{stopped['id']}/cancel")
    picture = server.drawn()["outputs"][0]["id"]
    return {
        "draw": "draw",
        "library": "library",
        "picture": f"picture/{picture}",
        "start of change": "change",
        "change": f"change/{picture}",
        "models": "models",
        "grids": "grids",
        "grid": f"grids/{batch['id']}",
        "history": "history",
        "queue": "queue",
    }


def told(found: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{one['impact']} {one['id']}: {one['help']}\n  " + "\n  ".join(node["html"][:200] for node in one["nodes"][:4])
        for one in found
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(server: PageServer, full: dict[str, str], tabs: Any, scheme: str) -> None:
    tab = tabs(server, color_scheme=scheme, reduced_motion="reduce")
    faults = []
    for name, route in full.items():
        tab.open(route)
        tab.page.wait_for_timeout(150)
        if found := tab.axe():
            faults.append(f"{name}: {told(found)}")
    for name in ("Keys", "Settings"):
        tab.open("queue")
        tab.button(name).first.click()
        tab.page.get_by_role("dialog").wait_for()
        if found := tab.axe():
            faults.append(f"{name}: {told(found)}")
        tab.page.keyboard.press("Escape")
    assert not faults, "\n".join(faults)


def test_nothing_is_wider_than_a_phone(server: PageServer, full: dict[str, str], tabs: Any) -> None:
    tab = tabs(server, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    for name, route in full.items():
        tab.open(route)
        tab.page.wait_for_timeout(150)
        assert tab.js("() => document.documentElement.scrollWidth - innerWidth") <= 0, name
        small = tab.js(
            """() => [...document.querySelectorAll('button, a[href], select, summary')].filter(one => {
                 const box = one.getBoundingClientRect();
                 return box.width > 1 && box.height > 1 && (box.width < 23.5 || box.height < 23.5)
                   && getComputedStyle(one).display !== 'inline' && getComputedStyle(one).visibility === 'visible';
               }).map(one => one.outerHTML.slice(0, 120))"""
        )
        assert small == [], name


def test_the_page_is_german_for_germans(server: PageServer, full: dict[str, str], tabs: Any) -> None:
    tab = tabs(server, locale="de-DE")
    for route in full.values():
        tab.open(route)
    assert tab.js("() => document.documentElement.lang") == "de"
    tab.open("models")
    tab.page.get_by_role("heading", name="Modelle").wait_for()


def test_the_list_of_keys_opens_and_gives_the_focus_back(server: PageServer, tab: Any) -> None:
    tab.open("queue")
    start = tab.button("Keys").first
    start.focus()
    tab.page.keyboard.press("?")
    sheet = tab.page.get_by_role("dialog")
    sheet.get_by_text(re.compile("Go to Draw")).first.wait_for()
    tab.page.keyboard.press("Escape")
    sheet.wait_for(state="hidden")
    assert start.evaluate("element => element === document.activeElement")
    tab.page.keyboard.press("3")
    tab.shown("library")
