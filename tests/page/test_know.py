"""Models and adapters, files that are taken in, grids, history, and what drawing is going to cost."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from page.pictures import embedding
from page.served import PageServer


def test_models_and_adapters_are_cards(server: PageServer, tab: Any) -> None:
    server.drawn()
    tab.open("models")
    card = tab.page.locator('[data-card="gesso-mini"]')
    assert "Apache-2.0" in card.inner_text() and "29 MB" in card.inner_text()
    recipe = server.api.get(f"/v1/images/{server.jobs()[0]['outputs'][0]['id']}/metadata").json()["recipe"]
    assert recipe["files"][0]["sha256"].startswith(card.locator(".hash").inner_text())
    card.locator("img").wait_for()  # the newest picture that it drew
    tab.page.get_by_role("searchbox").fill("comic")
    tab.page.wait_for_function("() => document.querySelectorAll('[data-card]').length === 1")
    tab.page.locator('[data-card="comic"]').get_by_role("button", name="About comic").click()
    sheet = tab.page.get_by_role("dialog")
    sheet.get_by_text("modelspec.").first.wait_for()
    tab.page.keyboard.press("Escape")
    tab.button("Add to the prompt").click()
    tab.open("draw")
    assert tab.field("Prompt").input_value() == "<lora:comic:1>"
    # What was drawn with last stands first, if that is wanted.
    tab.field("Prompt").fill("a cat <lora:woodcut:1>")
    tab.field("Prompt").press("Control+Enter")
    server.until(lambda: len(server.jobs()) == 2)
    for again in (False, True):
        tab.open("models")
        if not again:
            tab.field("Order").select_option("used")
        tab.page.wait_for_function(
            "() => [...document.querySelectorAll('[data-card]')].slice(0, 2).map(one => one.dataset.card).sort().join()"
            " === 'gesso-mini,woodcut'"
        )
        tab.reload("models")


def test_a_model_file_dropped_anywhere_is_taken_in_as_what_it_is(server: PageServer, tab: Any) -> None:
    tab.open("draw")
    notes = {"modelspec.license": "CC0-1.0", "modelspec.trigger_phrase": "in my style", "modelspec.title": "My style"}
    tab.paste_files("body", [("mystyle.safetensors", "", embedding(notes))])
    tab.shown("models")
    line = tab.page.locator('[data-import="done"]')
    line.wait_for(timeout=90_000)
    assert "mystyle is an embedding" in line.inner_text()
    line.get_by_role("button", name="Show it").click()
    card = tab.page.locator('[data-card="mystyle"]')
    card.wait_for()
    for words in ("CC0-1.0", "in my style", "My style", "Embedding"):
        assert words in card.inner_text(), words
    # The same again is not a second one, by another name or by the same; another file of the same name is refused.
    for name in ("copy", "mystyle"):
        tab.paste_files("body", [(f"{name}.safetensors", "", embedding(notes))])
        line.wait_for(timeout=90_000)
        assert "was in the library already" in line.inner_text()
        line.get_by_role("button", name="Close").click()
    tab.allow("409 POST")
    tab.paste_files("body", [("mystyle.safetensors", "", embedding(notes, 0.75))])
    refused = tab.page.locator('[data-import="failed"]')
    refused.wait_for(timeout=90_000)
    assert "Give yours another name" in refused.inner_text()


@pytest.mark.slow
def test_a_file_that_is_no_model_is_refused_with_the_reason(server: PageServer, tab: Any) -> None:
    tab.allow("4.. POST")
    tab.open("models")
    tab.paste_files("body", [("broken.safetensors", "", b"\x10\0\0\0\0\0\0\0not a header at all")])
    line = tab.page.locator('[data-import="failed"]')
    line.wait_for(timeout=90_000)
    assert "broken.safetensors was not taken in" in line.inner_text() and len(line.inner_text()) > 60
    assert tab.page.locator('[data-card="broken"]').count() == 0


def test_a_grid_is_drawn_and_saved(server: PageServer, tab: Any) -> None:
    tab.open("grids")
    tab.button("Fill in this example").click()
    tab.page.get_by_text("12 pictures").first.wait_for()
    rows = tab.page.get_by_role("group", name="Rows")
    rows.get_by_label("Values", exact=True).fill("1, 3")
    columns = tab.page.get_by_role("group", name="Columns")
    columns.get_by_label("Values", exact=True).fill("2-4")
    tab.page.get_by_text("6 pictures").first.wait_for()
    tab.page.locator('[data-plan="known"]').wait_for()
    tab.button("Draw the grid").click()
    tab.page.wait_for_function("() => document.querySelectorAll('[data-cell]').length === 6", timeout=60_000)
    table = tab.page.get_by_role("table")
    heads = table.get_by_role("columnheader").all_inner_texts()
    assert heads == ["2", "3", "4"] and table.get_by_role("rowheader").all_inner_texts() == ["1", "3"]
    at = tab.page.get_by_role("link", name="Picture with Steps 3, Guidance 1").get_attribute("data-cell")
    asked = server.api.get(f"/v1/jobs/{at}").json()["request"]
    assert (asked["num_steps"], asked["guidance_scale"]) == (3, 1.0)
    assert len({job["request"]["seed"] for job in server.jobs()}) == 1, "nothing else varies"
    with tab.page.expect_download() as waiting:
        tab.button("Save as picture").click()
    with Image.open(waiting.value.path()) as saved:
        assert saved.width > 3 * 256 and saved.height > 2 * 256
    with tab.page.expect_download() as waiting:
        tab.button("Save as page").click()
    page = Path(waiting.value.path()).read_text(encoding="utf-8")
    own = re.findall(r"<img [^>]*>", page)
    assert len(own) == 6 and all('src="data:image/png;base64,' in one for one in own)
    assert "<script" not in page and page.count("&quot;prompt&quot;:&quot;a red car&quot;") == 6
    address = tab.page.url
    tab.open("grids")
    tab.page.locator("a[data-sheet]").first.click()
    tab.page.wait_for_url(address)


def test_what_an_axis_cannot_have_is_said_beside_it(server: PageServer, tab: Any) -> None:
    tab.open("grids")
    tab.field("Prompt").fill("a red car")
    columns = tab.page.get_by_role("group", name="Columns")
    columns.get_by_label("Setting").select_option("steps")
    values = columns.get_by_label("Values", exact=True)
    values.fill("4, many")
    columns.get_by_text("many is no number").wait_for()
    assert tab.button("Draw the grid").is_disabled()
    columns.get_by_label("Setting").select_option("prompt")
    values.fill("blue, green")
    tab.page.get_by_text("“blue” is not in the prompt").wait_for()
    values.fill("red, green")
    tab.page.get_by_text("2 pictures").first.wait_for()
    assert tab.button("Draw the grid").is_enabled()


def test_the_history_has_what_failed_and_gives_settings_back(server: PageServer, tab: Any) -> None:
    server.drawn({"prompt": "a red car", "seed": 41, "num_steps": 2})
    stopped = server.submit({"prompt": "a slow cat", "num_steps": 200, "num_images": 4})
    server.api.post(f"/v1/jobs/{stopped['id']}/cancel")
    server.wait(stopped["id"], "canceled")
    tab.open("history")
    tab.page.get_by_text("Today").wait_for()
    assert tab.page.locator("[data-job]").count() == 2
    tab.button("Stopped").click()
    tab.page.wait_for_function("() => document.querySelectorAll('[data-job]').length === 1")
    tab.button("All").click()
    tab.page.locator('[data-status="succeeded"]').get_by_role("button", name="Use these settings").click()
    tab.shown("draw")
    assert tab.field("Prompt").input_value() == "a red car" and tab.field("Seed").input_value() == "41"


def test_memory_and_time_are_told_before_drawing(server: PageServer, tab: Any) -> None:
    server.drawn()
    tab.open()
    tab.field("Prompt").fill("a red car")
    plan = tab.page.locator('[data-plan="known"]')
    plan.wait_for()
    assert re.search(r"about [\d.]+ (s|min)", plan.inner_text()) and re.search(r"\d MB", plan.inner_text())
    assert "for the weights" in (plan.locator(".memory").get_attribute("title") or "")
    tab.number("Pictures").fill("64")
    tab.page.keyboard.press("Tab")
    tab.page.wait_for_function(
        "text => document.querySelector('[data-plan]').innerText !== text", arg=plan.inner_text()
    )
