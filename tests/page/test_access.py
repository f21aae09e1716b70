"""Everybody can use it: axe-core on every view, in light and dark; keys alone; little room."""

import re
from typing import Any

import pytest

from page.browsing import PHONE
from page.served import PageServer

OF_COLOUR = ("color-contrast", "link-in-text-block")  # what axe-core finds otherwise is the same in light and in dark
AXES = {"job": {"request": {"prompt": "a red car", "num_steps": 2}}, "axes": ["steps=2,3", "guidance=1,3"]}


@pytest.fixture(scope="module")
def full(house: PageServer) -> dict[str, str]:
    """Something to be seen in every view. -> addresses of views by their names

    Once for the tests that begin this file: they ask for no `server`, which would empty it.
    """
    server = house
    if not server.is_running:
        server.start()
    server.clear()
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


def test_axe_finds_nothing_serious(house: PageServer, full: dict[str, str], tabs: Any) -> None:
    tab = tabs(house, reduced_motion="reduce")
    faults = []

    def look(name: str) -> None:
        for scheme, rules in (("light", None), ("dark", OF_COLOUR)):
            tab.page.emulate_media(color_scheme=scheme)
            if found := tab.axe(rules):
                faults.append(f"{name}, {scheme}: {told(found)}")

    for name, route in full.items():
        tab.open(route)
        tab.page.wait_for_timeout(150)
        look(name)
    for name in ("Keys", "Settings"):
        tab.open("queue")
        tab.button(name).first.click()
        tab.page.get_by_role("dialog").wait_for()
        look(name)
        tab.page.keyboard.press("Escape")
    assert not faults, "\n".join(faults)


def test_nothing_is_wider_than_a_phone(house: PageServer, full: dict[str, str], tabs: Any) -> None:
    tab = tabs(house, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    for name, route in full.items():
        tab.open(route)
        tab.page.wait_for_timeout(150)
        assert tab.js("() => document.documentElement.scrollWidth - innerWidth") <= 0, name
        if name == "change":  # each tool has a bar of its own
            for tool in tab.page.get_by_role("radiogroup", name="Tools").get_by_role("radio").all():
                tool.click()
                beyond = tab.page.locator(".bar *").evaluate_all(
                    "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
                    ".map(one => one.outerHTML.slice(0, 120))"
                )
                assert beyond == [], tool.get_attribute("aria-label")
        small = tab.js(
            """() => [...document.querySelectorAll('button, a[href], select, summary')].filter(one => {
                 const box = one.getBoundingClientRect();
                 return box.width > 1 && box.height > 1 && (box.width < 23.5 || box.height < 23.5)
                   && getComputedStyle(one).display !== 'inline' && getComputedStyle(one).visibility === 'visible';
               }).map(one => one.outerHTML.slice(0, 120))"""
        )
        assert small == [], name


def test_the_page_is_german_for_germans(house: PageServer, full: dict[str, str], tabs: Any) -> None:
    tab = tabs(house, locale="de-DE")
    for route in full.values():
        tab.open(route)
    assert tab.js("() => document.documentElement.lang") == "de"
    tab.open("models")
    tab.page.get_by_role("heading", name="Modelle").wait_for()
    # On a phone the names of the views are whole.
    phone = tabs(house, locale="de-DE", viewport=PHONE)
    phone.open("draw")
    cut = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"
    assert phone.page.locator("nav .word").evaluate_all(cut) == []
    tab.page.goto(f"{house.address}/#/draw?job={full['picture'].removeprefix('picture/').removesuffix('-0')}")
    tab.page.locator(".tile .ai").first.wait_for()
    assert set(tab.page.locator(".tile .ai").all_inner_texts()) == {"KI"}
    # What the server describes in English has its words here, too.
    tab.open("draw")
    tab.page.locator("summary", has_text="Gewohnheiten").click()
    tab.field("Anfangsrauschen").wait_for()
    defs = house.api.get("/v1/schema").json()["$defs"]
    fields = [*defs["Conventions"]["properties"].values(), *defs["Tiles"]["properties"].values()]
    labels = set(tab.page.locator("label").all_inner_texts())
    assert len(fields) > 20 and not labels & {one["title"] for one in fields}
    tab.field("VAE-Kodierung").select_option("mean")
    tab.page.get_by_text("den Mittelwert seiner Verteilung").wait_for()
    # An error of the server: what its code means, before what was found.
    tab.allow("400 POST")
    tab.page.get_by_role("spinbutton", name="Breite", exact=True).fill("4096")
    tab.page.get_by_role("spinbutton", name="Höhe", exact=True).fill("4096")
    tab.page.get_by_role("spinbutton", name="Bilder", exact=True).fill("64")
    tab.field("Prompt").fill("a red car")
    tab.page.keyboard.press("Control+Enter")
    tab.page.get_by_role("alert").get_by_text("Eine Einstellung hat einen ungültigen Wert (").first.wait_for()


@pytest.mark.slow
def test_a_view_that_is_left_never_takes_the_next_ones_address(
    house: PageServer, full: dict[str, str], tabs: Any
) -> None:
    """Whatever is still under way in it: what it would ask the server for is not there, and that is a fault."""
    tab = tabs(house)
    for name in ("library", "picture", "change", "grid", "picture", "models", "change", "draw", "picture", "nowhere"):
        tab.open(full.get(name, name)) if name != "nowhere" else tab.js("() => { location.hash = '#/nowhere/7' }")
    for pause in (0, 10, 60):
        for name in ("picture", "change", "grid", "library", "picture", "grid", "change", "models", "picture"):
            tab.js("hash => { location.hash = hash }", f"#/{full[name]}")
            if pause:
                tab.page.wait_for_timeout(pause)
    tab.shown("picture")
    tab.page.go_back()
    tab.page.go_back()
    tab.shown("change")


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


def test_keys_can_be_others_and_what_is_taken_is_told(server: PageServer, tab: Any) -> None:
    tab.open("queue")
    tab.page.keyboard.press("?")
    sheet = tab.page.get_by_role("dialog")
    row = sheet.get_by_role("listitem").filter(has_text="Go to Library")
    row.get_by_role("button", name=re.compile("^Go to Library")).click()
    tab.page.keyboard.press("4")
    row.get_by_text("already does this: Go to Models").wait_for()
    row.get_by_role("button", name="Exchange the two").click()
    row = sheet.get_by_role("listitem").filter(has_text="Go to Grids")
    row.get_by_role("button", name=re.compile("^Go to Grids")).click()
    tab.page.keyboard.press("k")
    tab.page.keyboard.press("Escape")
    sheet.wait_for(state="hidden")
    for key, view in (("4", "library"), ("k", "grids"), ("3", "models")):
        tab.page.keyboard.press(key)
        tab.shown(view)
    tab.reload("models")
    tab.page.keyboard.press("5")
    tab.page.keyboard.press("k")
    tab.shown("grids")
    tab.page.keyboard.press("?")
    sheet.get_by_role("button", name="All keys as they were").click()
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("3")
    tab.shown("library")


def test_what_has_the_focus_stands_above_the_bars_of_a_phone(server: PageServer, tabs: Any) -> None:
    tab = tabs(server, viewport=PHONE)
    tab.open()
    for _ in range(24):
        tab.page.keyboard.press("Tab")
        covered = tab.js(
            """() => {
              const one = document.activeElement, box = one.getBoundingClientRect();
              const over = document.elementFromPoint(box.left + box.width / 2, box.top + Math.min(box.height / 2, 20));
              return over && over.closest('.go, header') && !over.closest('.go, header').contains(one)
                ? one.outerHTML.slice(0, 120) : null;
            }"""
        )
        assert covered is None
