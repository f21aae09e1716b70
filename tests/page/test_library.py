"""The library: look, search, keep, compare, delete and bring back, and settings out of any picture."""

import io
import json
import re
import zipfile
from typing import Any

import pytest

from page.pictures import A1111, png
from page.served import PageServer


@pytest.fixture
def drawn(server: PageServer) -> list[dict[str, Any]]:
    """Three pictures, the newest first."""
    asked = (("a red car", 7, 2), ("a green tree", 8, 3), ("a blue bird", 9, 3))
    return [server.drawn({"prompt": prompt, "seed": seed, "num_steps": steps}) for prompt, seed, steps in asked][::-1]


def ids(tab: Any) -> list[str]:
    return list(tab.page.locator("[data-picture]").evaluate_all("all => all.map(one => one.dataset.picture)"))


def wait_for_ids(tab: Any, count: int) -> list[str]:
    tab.page.wait_for_function("n => document.querySelectorAll('[data-picture]').length === n", arg=count)
    return ids(tab)


def test_pictures_stand_in_time_order_and_a_click_opens_and_escape_goes_back(
    server: PageServer, drawn: list[dict[str, Any]], tab: Any
) -> None:
    expected = [job["outputs"][0]["id"] for job in drawn]
    tab.open("library")
    assert wait_for_ids(tab, 3) == expected
    tab.page.locator(f'[data-picture="{expected[0]}"]').first.click()
    tab.shown("picture")
    assert tab.page.url.endswith(expected[0])
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_url(re.compile(re.escape(expected[1])))
    tab.page.get_by_text("a green tree").first.wait_for()
    tab.page.get_by_text("AI-generated").first.wait_for()
    tab.button("About this picture").click()
    sheet = tab.page.get_by_role("dialog")
    for words in ("Recipe", "SHA-256", "Notices"):
        sheet.get_by_text(words).first.wait_for()
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    tab.shown("library")


@pytest.mark.slow
def test_what_is_copied_in_a_sheet_is_copied_also_without_https(
    server: PageServer, drawn: list[dict[str, Any]], tab: Any
) -> None:
    # The clipboard that a browser keeps from pages of another machine that come without https.
    tab.context.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', {get: () => undefined})")
    tab.open(f"picture/{drawn[0]['outputs'][0]['id']}")
    tab.button("About this picture").click()
    tab.button("Copy the recipe").click()
    copied = tab.button("Copied")
    copied.wait_for()
    assert copied.evaluate("element => element === document.activeElement")
    tab.page.keyboard.press("Escape")
    tab.open()
    tab.field("Prompt").fill("")
    tab.page.keyboard.press("Control+v")
    assert '"a blue bird"' in tab.field("Prompt").input_value()


def test_words_and_settings_are_found(server: PageServer, drawn: list[dict[str, Any]], tab: Any) -> None:
    tab.open("library")
    search = tab.page.get_by_role("searchbox")
    for words, job in (("green", drawn[1]), ("seed:7 steps:2", drawn[2]), ("BLUE bird", drawn[0])):
        search.fill(words)
        tab.page.wait_for_function(
            "id => { const all = document.querySelectorAll('[data-picture]');"
            " return all.length === 1 && all[0].dataset.picture === id }",
            arg=job["outputs"][0]["id"],
        )
    search.fill("nothing of this kind")
    tab.page.get_by_text("Nothing found").first.wait_for()


def test_a_picture_is_starred_deleted_and_brought_back(
    server: PageServer, drawn: list[dict[str, Any]], tab: Any
) -> None:
    first = drawn[0]["outputs"][0]["id"]
    tab.open("library")
    wait_for_ids(tab, 3)
    tab.button(re.compile("^Star: a blue bird")).click(force=True)
    tab.button("Stars").click()
    assert wait_for_ids(tab, 1) == [first]
    tab.button("All").click()
    wait_for_ids(tab, 3)
    tab.button("Select").click()
    tab.page.locator(f'[data-picture="{first}"]').first.click()
    tab.button(re.compile("^Delete$")).first.click()
    assert first not in wait_for_ids(tab, 2)
    tab.button("Undo").click()
    assert first in wait_for_ids(tab, 3)


def test_two_pictures_are_compared(server: PageServer, drawn: list[dict[str, Any]], tab: Any) -> None:
    tab.open("library")
    wait_for_ids(tab, 3)
    tab.button("Select").click()
    for job in drawn[:2]:
        tab.page.locator(f'[data-picture="{job["outputs"][0]["id"]}"]').first.click()
    tab.button("Compare").click()
    tab.page.get_by_text("What differs").first.wait_for()
    table = tab.page.get_by_role("table").first
    assert "9" in table.inner_text() and "8" in table.inner_text() and "Seed" in table.inner_text()
    assert "Steps" not in table.inner_text(), "both have three"
    slider = tab.page.get_by_role("slider").first
    before = slider.input_value()
    slider.focus()
    tab.page.keyboard.press("ArrowRight")
    assert slider.input_value() != before
    tab.page.get_by_text("Side by side").first.click()


@pytest.mark.slow
def test_of_two_pictures_of_one_job_it_is_said_what_differs(server: PageServer, tab: Any) -> None:
    job = server.drawn({"num_images": 3, "num_steps": 2})
    tab.open(f"picture/{job['outputs'][2]['id']}?with={job['outputs'][0]['id']}")
    tab.page.get_by_text("What differs").first.wait_for()
    assert tab.page.get_by_role("row").all_inner_texts() == ["Setting\tA\tB", "Picture number\t3\t1"]
    tab.page.get_by_text("One job drew both from one seed").wait_for()
    tab.open(f"picture/{job['outputs'][2]['id']}")
    tab.page.get_by_text("7, picture 3 of it").wait_for()


def test_many_are_downloaded_with_their_settings(server: PageServer, drawn: list[dict[str, Any]], tab: Any) -> None:
    tab.open("library")
    wait_for_ids(tab, 3)
    tab.button("Select").click()
    tab.button("Select all").click()
    with tab.page.expect_download() as waiting:
        tab.button("Download as ZIP").click()
    with zipfile.ZipFile(waiting.value.path()) as archive:
        names = archive.namelist()
        assert sum(name.endswith(".png") for name in names) == 3
        notes = [json.loads(archive.read(name)) for name in names if name.endswith(".json")]
    assert "a red car" in json.dumps(notes)


def test_a_dropped_picture_of_gesso_gives_its_settings_back(
    server: PageServer, drawn: list[dict[str, Any]], tab: Any
) -> None:
    data = server.api.get(drawn[2]["outputs"][0]["url"]).content
    tab.open()
    tab.field("Prompt").fill("something else")
    tab.paste_files("body", [("car.png", "image/png", data)])
    tab.page.get_by_role("dialog").get_by_text("It has settings of gesso").wait_for()
    tab.button(re.compile("^Use its settings")).last.click()
    tab.page.wait_for_function("() => document.querySelector('textarea').value === 'a red car'")
    assert tab.field("Seed").input_value() == "7"
    tab.page.keyboard.press("Control+Enter")
    again = server.until(
        lambda: next((job for job in server.jobs() if job["id"] not in {d["id"] for d in drawn}), None)
    )
    done = server.wait(again["id"], "succeeded")
    assert done["request"]["num_steps"] == 2
    assert _pixels(server, done) == _pixels(server, drawn[2]), "the same settings draw the same picture"


def _pixels(server: PageServer, job: dict[str, Any]) -> bytes:
    from PIL import Image

    return Image.open(io.BytesIO(server.api.get(job["outputs"][0]["url"]).content)).convert("RGB").tobytes()


def test_a_picture_of_another_tool_gives_its_settings(server: PageServer, tab: Any) -> None:
    tab.open("library")
    tab.paste_files("body", [("bird.png", "image/png", png(A1111, (256, 256)))])
    tab.page.get_by_role("dialog").get_by_text(re.compile("It has settings of")).wait_for()
    tab.button(re.compile("^Use its settings")).last.click()
    tab.shown("draw")
    tab.page.wait_for_function("() => document.querySelector('textarea').value.startsWith('a blue bird')")
    assert tab.field("Seed").input_value() == "99"
    assert tab.number("Steps").input_value() == "7"


def test_a_picture_without_settings_can_still_be_drawn_from(server: PageServer, tab: Any) -> None:
    tab.allow("400 POST .*/v1/metadata")  # no settings in it
    tab.open()
    tab.paste_files("body", [("plain.png", "image/png", png(size=(256, 256)))])
    tab.page.get_by_role("dialog").get_by_text(re.compile("no settings")).first.wait_for()
    tab.button(re.compile("^Change it")).last.click()
    tab.shown("change")
    tab.page.get_by_text("256 × 256").first.wait_for()


def test_files_that_are_no_pictures_are_told_and_nothing_is_done_with_them(server: PageServer, tab: Any) -> None:
    tab.allow("400 POST .*/v1/metadata")
    tab.open()
    tab.paste_files("body", [("all.zip", "application/zip", b"PK"), ("broken.png", "image/png", png()[:40])])
    tab.page.get_by_role("alert").get_by_text("all.zip was not taken").wait_for()
    sheet = tab.page.get_by_role("dialog")
    sheet.get_by_text("This is no picture that can be read").wait_for()
    assert sheet.get_by_role("button", disabled=True).count() == 3
