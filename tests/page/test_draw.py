"""Draw: from nothing to a picture, stopped, reloaded, with the server gone and back, in two tabs."""

import re
import time
from typing import Any

import pytest

from page.pace import pace
from page.served import LONG, PageServer

ONE = re.compile(r"^Draw")


def write(tab: Any, prompt: str, *, pictures: int = 1, steps: int | None = None) -> None:
    """Fill in the form."""
    tab.field("Prompt").fill(prompt)
    tab.number("Pictures").fill(str(pictures))
    tab.page.keyboard.press("Tab")
    if steps is not None:
        set_steps(tab, steps)


def set_steps(tab: Any, steps: int) -> None:
    field = tab.number("Steps")
    if not field.is_visible():
        tab.page.locator("summary", has_text="Sampling").click()
    field.fill(str(steps))
    field.press("Tab")


def job_at(tab: Any, status: str, timeout: float = 90_000) -> str:
    """The id of the job on the stage, once it has this status."""
    stage = tab.page.locator(f'article[data-job][data-status="{status}"]')
    stage.wait_for(timeout=timeout)
    found = stage.get_attribute("data-job")
    assert found
    return str(found)


def test_a_newcomer_has_a_picture_within_one_click_and_three_seconds(server: PageServer, tabs: Any) -> None:
    took: list[float] = []
    for _ in range(3):  # what a machine that does much else cannot do once, it may do in three tries
        tab = tabs(server)
        tab.open()
        suggestion = tab.page.locator('[data-view="draw"] section').nth(1).locator("li button").first
        busy = pace()
        start = time.monotonic()
        suggestion.click()
        tab.page.locator("img[data-picture]").first.wait_for()
        took.append(time.monotonic() - start)
        if took[-1] < (limit := 3 * max(busy, pace())):
            break
        server.clear()
    assert took[-1] < limit, took
    job = server.jobs()[0]
    assert job["request"]["prompt"] == tab.field("Prompt").input_value() != ""
    job_at(tab, "succeeded")
    assert tab.page.locator("img[data-picture]").count() == 4
    alt = tab.page.locator("img[data-picture]").first.get_attribute("alt")
    assert "AI-generated" in alt and job["request"]["prompt"] in alt


def test_ctrl_enter_draws_from_every_field_and_the_focus_stays(server: PageServer, tab: Any) -> None:
    tab.open()
    write(tab, "a green tree", steps=2)
    for number, name in enumerate(("Prompt", "Width", "Pictures", "Steps"), start=1):
        field = tab.field(name) if name == "Prompt" else tab.number(name)
        field.focus()
        tab.page.keyboard.press("Control+Enter")
        server.until(lambda count=number: len(server.jobs()) == count)
        assert field.evaluate("element => element === document.activeElement"), name


def test_what_is_drawn_can_be_stopped(server: PageServer, tab: Any) -> None:
    tab.open()
    write(tab, "a red car", pictures=4, steps=150)
    tab.button(ONE).click()
    job = job_at(tab, "running")
    tab.button("Stop").first.click()
    job_at(tab, "canceled")
    assert server.api.get(f"/v1/jobs/{job}").json()["status"] == "canceled"
    tab.button("Try again").wait_for()


def test_a_reload_in_the_middle_of_a_job_loses_nothing(server: PageServer, tab: Any) -> None:
    tab.open()
    write(tab, "a red car", pictures=4, steps=150)
    tab.button(ONE).click()
    job = job_at(tab, "running")
    tab.field("Prompt").fill("a half-typed")
    tab.page.wait_for_timeout(300)
    tab.reload()
    assert job_at(tab, "running") == job
    assert tab.field("Prompt").input_value() == "a half-typed"
    assert tab.number("Steps").input_value() == "150"
    # It goes on to tell how far the job is, with a preview.
    tab.page.locator("article img").first.wait_for()
    tab.page.get_by_text(re.compile(r"step \d+ of 150")).first.wait_for()
    server.api.post(f"/v1/jobs/{job}/cancel")
    job_at(tab, "canceled")


def test_a_server_that_dies_and_comes_back_finishes_what_the_page_shows(own_server: PageServer, tabs: Any) -> None:
    own_server.start()
    tab = tabs(own_server)
    tab.allow("ERR_|net::|50[234] GET")
    tab.open()
    write(tab, "a blue house", steps=60)
    tab.button(ONE).click()
    job = job_at(tab, "running")
    own_server.kill()
    tab.page.get_by_text("The server does not answer").first.wait_for()
    tab.field("Prompt").fill("written while it was away")
    own_server.start()
    assert job_at(tab, "succeeded", timeout=120_000) == job
    tab.page.locator(f'article[data-job="{job}"] img[data-picture]').wait_for()
    tab.page.get_by_text("The server does not answer").wait_for(state="detached")
    assert tab.field("Prompt").input_value() == "written while it was away"
    assert own_server.api.get(f"/v1/jobs/{job}").json()["attempts"] == 2


def test_two_tabs_agree_on_jobs_and_keep_their_own_prompts(server: PageServer, tabs: Any) -> None:
    first = tabs(server)
    first.open()
    second = tabs(server, beside=first)
    second.open()
    write(first, "a red car", pictures=4, steps=150)
    second.field("Prompt").fill("a blue bird")
    first.button(ONE).click()
    job = job_at(first, "running")
    second.open("queue")
    line = second.page.locator(f'[data-job="{job}"]')
    line.wait_for()
    line.get_by_role("button", name="Stop").click()
    job_at(first, "canceled")
    for tab, prompt in ((first, "a red car"), (second, "a blue bird")):
        tab.page.wait_for_timeout(300)
        tab.open()
        tab.reload()
        assert tab.field("Prompt").input_value() == prompt


def test_nothing_moves_while_previews_arrive(server: PageServer, tab: Any) -> None:
    tab.open()
    write(tab, "a red car", pictures=4, steps=12)
    tab.page.wait_for_timeout(500)
    tab.button(ONE).click()
    tab.page.locator("article[data-job]").wait_for()
    tab.page.wait_for_timeout(100)
    since = tab.now()
    tab.page.locator("article img").first.wait_for()
    job_at(tab, "succeeded")
    tab.page.locator("img[data-picture]").nth(3).wait_for()
    shifts = tab.shifts(after=since)
    assert sum(one["value"] for one in shifts) < 0.01, shifts


def test_errors_stay_say_what_to_do_and_are_text(server: PageServer, tab: Any) -> None:
    tab.allow("400 POST")
    tab.open()
    write(tab, "a red car (")
    tab.number("Width").fill("4096")
    tab.number("Height").fill("4096")
    tab.number("Pictures").fill("64")
    set_steps(tab, 1000)
    tab.button(ONE).click()
    told = tab.page.get_by_role("alert").first
    told.wait_for()
    tab.page.wait_for_timeout(6000)
    assert "expected" in told.inner_text() or "Try" in told.inner_text(), told.inner_text()
    assert told.get_by_role("button", name=re.compile("[Cc]opy")).count() >= 1 and server.jobs() == []


def test_words_that_the_model_does_not_know_are_marked_as_they_are_typed(server: PageServer, tab: Any) -> None:
    tab.open()
    tab.field("Prompt").fill("a red zeppelinoid")
    tab.page.get_by_text("zeppelinoid").first.wait_for()
    tab.page.get_by_text(re.compile("does not know.*zeppelinoid")).first.wait_for()


def test_a_selection_is_weighed_by_keys_and_completed(server: PageServer, tab: Any) -> None:
    tab.open()
    field = tab.field("Prompt")
    field.fill("a red car")
    field.evaluate("element => element.setSelectionRange(2, 5)")
    field.press("Control+ArrowUp")
    assert field.input_value() == "a (red:1.1) car"
    field.press("Control+ArrowDown")
    assert field.input_value() == "a red car"
    field.press("End")
    field.type(" <com")
    option = tab.page.get_by_role("option").filter(has_text="comic").first
    option.wait_for()
    field.press("Enter")
    assert "<lora:comic:" in field.input_value()
    assert server.jobs() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_title_tells_how_far_it_is(server: PageServer, tabs: Any, scheme: str) -> None:
    tab = tabs(server, color_scheme=scheme)
    tab.open()
    before = tab.page.title()
    job = server.submit(LONG)
    tab.page.wait_for_function("title => document.title !== title", arg=before)
    server.api.post(f"/v1/jobs/{job['id']}/cancel")
    tab.page.wait_for_function("title => document.title === title", arg=before)
