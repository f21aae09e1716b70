"""The view Change: what is painted is what the server gets, and nothing changes until a suggestion is kept."""

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from page.pace import within
from page.served import PageServer

# The mask as the page keeps it: what was painted, before anything is made of it for the server. It is kept when the tab
# goes, and else by itself a moment after each change.
MASK = """async isAlone => {
  const since = Date.now();
  const wait = ms => new Promise(next => setTimeout(next, ms));
  const database = await new Promise(next => {
    const asked = indexedDB.open('gesso.canvas', 1);
    asked.onsuccess = () => next(asked.result);
  });
  if (isAlone) await wait(1800);
  for (;;) {
    const all = await new Promise(next => {
      const asked = database.transaction('documents').objectStore('documents').getAll();
      asked.onsuccess = () => next(asked.result);
    });
    const kept = all.find(one => decodeURIComponent(location.hash) === `#/change/${one.id}`);
    if (!isAlone && !(kept?.at >= since)) {
      if (Date.now() - since > 30000) throw Error('nothing was kept');
      window.dispatchEvent(new Event('pagehide'));  // more than once: after a reload there is nothing yet to be kept
      await wait(50);
      continue;
    }
    const levels = kept.layers.find(one => one.kind === 'mask').levels;
    return [kept.size.width, kept.size.height, [...new Uint8Array(await levels.arrayBuffer())]];
  }
}"""


@pytest.fixture
def picture(server: PageServer) -> str:
    """Id of a picture that is there to be changed."""
    job = server.drawn({"prompt": "a red car on a yellow background", "num_steps": 6})
    return str(job["outputs"][0]["id"])


@pytest.fixture
def change(tab: Any, picture: str) -> Any:
    """A tab in which the picture is open, asking for one suggestion at a time."""
    tab.open(f"change/{picture}")
    button(tab, "Suggestions: 1").click()
    return tab


def fetched(server: PageServer, path: str) -> np.ndarray:
    """Levels of a picture of the server, [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(server.api.get(path).content)).convert("RGB"))


def painted(tab: Any, *, alone: bool = False) -> np.ndarray:
    """The mask as the page has it, [H, W]. alone: as it has kept it by itself, without being told to."""
    width, height, packed = tab.js(MASK, alone)
    kind, data = packed[0], packed[1:]
    if kind == 0:
        levels = np.full(width * height, data[0])
    elif kind == 1:
        levels = np.repeat(data[1::2], data[0::2])
    else:
        levels = np.array(data)
    return levels.reshape(height, width).astype(np.uint8)


def stroke(tab: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Paint over the canvas by pointer; places as shares of it."""
    box = tab.page.locator(".stage").bounding_box()
    assert box is not None
    (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    tab.page.mouse.move(x0, y0)
    tab.page.mouse.down()
    tab.page.mouse.move(x1, y1, steps=9)
    tab.page.mouse.up()


def drawn(tab: Any, ask: Callable[[], Any]) -> dict[str, Any]:
    """The job that `ask` submits, done, when its suggestion lies over the canvas."""
    before = {job["id"] for job in tab.server.jobs()}
    ask()
    new = tab.server.until(lambda: [job["id"] for job in tab.server.jobs() if job["id"] not in before])
    job = tab.server.wait(new[0], "succeeded", "failed", "canceled")
    assert job["status"] == "succeeded", job["error"]
    tab.page.locator(f'.candidate[data-job="{job["id"]}"][aria-pressed="true"]').wait_for()
    return job


def button(tab: Any, name: str) -> Any:
    """The button of just this name."""
    return tab.page.get_by_role("button", name=name, exact=True)


def layers(tab: Any) -> list[str]:
    """Names of the layers, the topmost first."""
    return [text.split("\n")[0] for text in tab.page.locator("aside li .name").all_inner_texts()]


def downloaded(tab: Any) -> np.ndarray:
    """The picture as the page gives it out."""
    with tab.page.expect_download() as waiting:
        button(tab, "Download").click()
    return np.asarray(Image.open(waiting.value.path()).convert("RGB"))


def test_a_mask_arrives_as_it_was_painted_and_a_kept_suggestion_can_be_undone(change: Any, picture: str) -> None:
    server = change.server
    original = fetched(server, f"/v1/images/{picture}")
    stroke(change, (0.45, 0.4), (0.55, 0.6))
    change.page.keyboard.press("e")
    stroke(change, (0.5, 0.45), (0.53, 0.5))
    mask = painted(change)
    assert 0 < (mask == 255).mean() < 0.5
    assert ((mask > 0) & (mask < 255)).any()  # a soft edge
    change.field("What should be there").fill("a green car on a yellow background")
    job = drawn(change, lambda: button(change, "Draw suggestions").click())
    assert np.array_equal(fetched(server, f"/v1/assets/{job['assets']['mask']}/content")[..., 0], mask)
    assert np.array_equal(fetched(server, f"/v1/assets/{job['assets']['image']}/content"), original)
    result = fetched(server, job["outputs"][0]["url"])
    assert not np.array_equal(result, original)
    assert layers(change) == ["Mask", "Picture"]
    assert np.array_equal(downloaded(change), original)  # a suggestion is not the picture
    button(change, "Keep").click()
    change.page.locator("aside li .name", has_text="Change 1").wait_for()
    assert np.array_equal(downloaded(change), result)
    change.page.locator(".stage").focus()
    change.page.keyboard.press("Control+z")
    change.page.locator("aside li .name", has_text="Change 1").wait_for(state="detached")
    assert np.array_equal(downloaded(change), original)


def test_painting_without_a_pointer(change: Any) -> None:
    page = change.page
    page.locator(".stage").focus()
    page.keyboard.press("r")
    page.keyboard.press("Shift+ArrowLeft")  # shows the pointer in the middle, 10 to the left
    page.keyboard.press("Space")
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Space")
    mask = painted(change)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (128, 140, 118, 139)
    assert mask[128:140, 118:139].min() == 255
    button(change, "Nothing").click()
    page.get_by_text("Paint by numbers").click()
    for name, value in (("X", 16), ("Y", 32), ("Width", 64), ("Height", 48)):
        change.number(name).fill(str(value))
    button(change, "Add").last.click()
    expected = np.zeros((256, 256), np.uint8)
    expected[32:80, 16:80] = 255
    assert np.array_equal(painted(change), expected)
    button(change, "Invert").click()
    assert np.array_equal(painted(change), 255 - expected)


def test_colour_is_painted_taken_away_and_sent(change: Any, picture: str) -> None:
    page, server = change.page, change.server
    original = fetched(server, f"/v1/images/{picture}")
    page.locator(".stage").focus()
    page.keyboard.press("d")
    change.field("Colour").fill("#2040c0")
    softness = page.get_by_label("Softness")
    softness.fill("0")
    stroke(change, (0.45, 0.45), (0.55, 0.55))
    assert layers(change) == ["Mask", "Colours", "Picture"]
    once = downloaded(change)
    blue = (once == (0x20, 0x40, 0xC0)).all(axis=-1)
    assert 0.005 < blue.mean() < 0.5 and np.array_equal(once[:8], original[:8])
    stroke(change, (0.45, 0.55), (0.55, 0.45))
    button(change, "Take away").click()
    stroke(change, (0.5, 0.4), (0.5, 0.6))
    twice = downloaded(change)
    middle = slice(120, 136)
    assert np.array_equal(twice[middle, 127:129], original[middle, 127:129])  # what lies below is as it was
    page.locator(".stage").focus()
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert np.array_equal(downloaded(change), once)
    page.keyboard.press("Control+z")
    assert layers(change) == ["Mask", "Picture"] and np.array_equal(downloaded(change), original)
    page.keyboard.press("Control+y")
    assert np.array_equal(downloaded(change), once)
    page.wait_for_timeout(1500)
    change.reload("change")
    page.locator("aside li .name", has_text="Colours").wait_for()
    assert np.array_equal(downloaded(change), once)
    # Alt takes a colour from the picture, here the painted one.
    page.keyboard.press("d")
    change.field("Colour").fill("#000000")
    box = page.locator(".stage").bounding_box()
    page.keyboard.down("Alt")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.up("Alt")
    assert change.field("Colour").input_value() == "#2040c0"
    page.get_by_role("tab", name="Whole").click()
    job = drawn(change, lambda: button(change, "Draw suggestions").click())
    assert np.array_equal(fetched(server, f"/v1/assets/{job['assets']['image']}/content"), once)


def test_one_press_masks_an_object_erases_it_and_cuts_it_out(change: Any, picture: str) -> None:
    page = change.page
    original = fetched(change.server, f"/v1/images/{picture}")
    button(change, "Background").click()
    page.get_by_text("Nothing is masked yet").wait_for(state="detached")
    background = painted(change)
    assert background[:4].min() == 255 and background[128, 128] == 0 and 0.4 < (background == 255).mean() < 0.95
    with page.expect_download() as waiting:
        button(change, "Cut out").click()
    cut = np.asarray(Image.open(waiting.value.path()))
    assert cut.shape[2] == 4 and cut[0, 0, 3] == 0 and cut[128, 128, 3] == 255
    assert np.array_equal(cut[..., :3], original)
    button(change, "Object").click()
    assert np.array_equal(painted(change), 255 - background)
    button(change, "Erase it").click()
    assert layers(change) == ["Mask", "Erased", "Picture"]
    erased = downloaded(change).astype(int)
    assert np.abs(erased - np.median(original[:8], axis=(0, 1))).max(axis=-1)[100:156, 100:156].mean() < 30
    page.locator(".stage").focus()
    page.keyboard.press("Control+z")
    assert np.array_equal(downloaded(change), original)


def test_outpainting_by_dragging_the_frame_and_by_numbers(change: Any) -> None:
    page, server = change.page, change.server
    page.get_by_role("tab", name="Extend").click()
    scale = int(page.locator(".scale").inner_text().split()[0]) / 100
    box = page.locator(".stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2 + 128 * scale, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30 * scale, y, steps=6)
    page.mouse.up()
    assert abs(int(change.number("Right").input_value()) - 30) <= 1
    change.number("Top").fill("16")
    change.number("Top").press("Enter")
    assert "288 × 272" in page.locator(".becomes").inner_text()  # multiples of 16
    job = drawn(change, lambda: button(change, "Draw suggestions").click())
    assert job["request"]["source"]["outpaint"] == [0, 16, 32, 0]
    assert page.locator(".what").inner_text() == "256 × 256"
    button(change, "Keep").click()
    page.get_by_text("288 × 272", exact=True).wait_for()
    assert np.array_equal(downloaded(change), fetched(server, job["outputs"][0]["url"]))
    page.locator(".stage").focus()
    page.keyboard.press("Control+z")
    page.get_by_text("256 × 256", exact=True).wait_for()


def test_a_hint_is_seen_before_it_is_used(change: Any) -> None:
    page, server = change.page, change.server
    page.get_by_role("tab", name="Guide").click()
    assert button(change, "Draw suggestions").is_disabled()
    button(change, "Show the hint").click()
    page.locator("aside li .name", has_text="Hint: canny").wait_for()
    assert len(server.jobs()) == 1  # the picture alone: nothing was drawn for it
    job = drawn(change, lambda: button(change, "Draw suggestions").click())
    (control,) = job["request"]["controls"]
    assert (control["model"], control.get("preprocessor")) == ("gesso-edges", None)
    hint = fetched(server, f"/v1/assets/{job['assets']['hint:0']}/content")
    assert set(np.unique(hint)) == {0, 255}


def test_a_sentence_is_understood_or_draws_nothing(change: Any) -> None:
    page, server = change.page, change.server
    field = page.get_by_role("textbox", name="Say what should change")
    field.fill("please explain the sky")
    field.press("Enter")
    page.locator(".left", has_text="please explain the sky").wait_for()
    assert len(server.jobs()) == 1
    field.fill("make it blue and a bit more to the left")
    assert page.locator(".chip").all_inner_texts() == ["car becomes blue", "the picture moves 8 % to the left"]
    job = drawn(change, lambda: field.press("Enter"))
    assert job["request"]["prompt"] == "a blue car on a yellow background"
    words = page.get_by_role("textbox", name="What should be there", exact=True)
    assert words.input_value() == "a red car on a yellow background"  # until the suggestion is kept
    source = fetched(server, f"/v1/assets/{job['assets']['image']}/content")
    original = fetched(server, f"/v1/images/{server.jobs()[-1]['outputs'][0]['id']}")
    assert np.array_equal(source[:, :200], original[:, 19:219])
    # The next sentence is about what is looked at.
    field.fill("add a dog")
    after = drawn(change, lambda: field.press("Enter"))
    assert after["request"]["prompt"] == "a blue car and a dog on a yellow background"
    seen = fetched(server, job["outputs"][0]["url"])
    assert np.array_equal(fetched(server, f"/v1/assets/{after['assets']['image']}/content"), seen)
    button(change, "Keep").click()
    page.locator("aside li .name", has_text="Change 1").wait_for()
    assert words.input_value() == after["request"]["prompt"]


def test_a_reload_loses_nothing(change: Any) -> None:
    stroke(change, (0.45, 0.4), (0.55, 0.6))
    drawn(change, lambda: button(change, "Draw suggestions").click())
    button(change, "Keep").click()
    change.page.locator("aside li .name", has_text="Change 1").wait_for()
    mask, names, picture = painted(change, alone=True), layers(change), downloaded(change)
    drawn(change, lambda: button(change, "Draw suggestions").click())
    change.reload("change")
    assert layers(change) == names
    assert np.array_equal(painted(change), mask)
    assert np.array_equal(downloaded(change), picture)
    change.page.locator(".candidate").wait_for()


@pytest.mark.slow
def test_two_tabs_on_one_picture_lose_nothing(change: Any, tabs: Any, picture: str) -> None:
    first, second = change, tabs(change.server, beside=change)
    second.open(f"change/{picture}")
    stroke(first, (0.45, 0.4), (0.55, 0.4))
    mask = painted(first)
    # Nothing was done in the second, so that it shows what was done in the first; that can be undone like all else.
    second.page.locator(".covered", has_text="The mask covers").wait_for()
    assert np.array_equal(painted(second), mask)
    second.page.locator(".stage").focus()
    second.page.keyboard.press("Control+z")
    second.page.get_by_text("Nothing is masked yet").wait_for()
    second.page.keyboard.press("Control+y")
    # Both paint at the same time: the later one goes on as a picture of its own.
    painted(second)
    box = second.page.locator(".stage").bounding_box()
    second.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.6 * box["height"])
    second.page.mouse.down()
    stroke(first, (0.4, 0.55), (0.6, 0.55))
    painted(first)
    second.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 0.7 * box["height"], steps=4)
    second.page.mouse.up()
    second.page.wait_for_url(re.compile("~"))
    second.page.get_by_text("Both are kept").wait_for()
    assert picture in second.page.url and "~" not in first.page.url
    masks = [painted(tab) for tab in (first, second)]
    apart = masks[0].astype(int) - masks[1]
    assert (apart == 255).any() and (apart == -255).any(), "each has a stroke that the other has not"
    for tab, mask in zip((first, second), masks, strict=True):
        tab.reload("change")
        assert np.array_equal(painted(tab), mask)
    first.open("change")
    begun = first.page.get_by_role("region", name="What you were changing").get_by_role("link")
    begun.nth(1).wait_for()
    assert begun.count() == 2
    # The last stroke is there, however soon the picture is left.
    begun.last.click()
    first.page.locator(".covered", has_text="The mask covers").wait_for()
    left = first.page.url
    first.page.locator(".stage").focus()
    first.page.keyboard.press("r")
    stroke(first, (0.45, 0.75), (0.5, 0.8))
    first.page.get_by_role("link", name="Another picture").click()
    begun.first.click()
    first.page.wait_for_url(left)
    first.page.locator(".covered", has_text="The mask covers").wait_for()
    assert painted(first)[195:200, 122:125].min() == 255


@pytest.mark.slow
def test_everybody_can_use_it(change: Any) -> None:
    stroke(change, (0.45, 0.4), (0.55, 0.6))
    drawn(change, lambda: button(change, "Draw suggestions").click())
    for name in ("Part", "Extend", "Whole", "Guide"):
        change.page.get_by_role("tab", name=name).click()
        assert change.axe() == []
    change.open("change")
    assert change.axe() == []


def test_a_stroke_follows_the_pointer(tab: Any) -> None:
    tab.open(f"change/asset:{large(tab)}")
    times: list[float] = []
    for _ in range(3):
        stroke(tab, (0.2, 0.3), (0.8, 0.6))
        times += tab.js("() => performance.getEntriesByName('gesso.stroke').map(one => one.duration)")
    # From the event to the pixels, on a machine that may do much else meanwhile.
    assert np.percentile(times, 75) < within(30), sorted(times)


COUNT = """() => {
  const own = CanvasRenderingContext2D.prototype.putImageData;
  window.put = [];
  CanvasRenderingContext2D.prototype.putImageData = function(image, x, y, ...part) {
    window.put.push((part[2] ?? image.width) * (part[3] ?? image.height));
    return own.call(this, image, x, y, ...part);
  };
}"""
MOVE = """(stage, places) => {
  const made = (type, at, more) => new PointerEvent(type, {
    pointerId: 1, isPrimary: true, button: 0, buttons: 1, bubbles: true, clientX: at[0], clientY: at[1], ...more});
  stage.setPointerCapture = () => {};
  stage.dispatchEvent(made('pointerdown', places[0]));
  window.put.length = 0;
  stage.dispatchEvent(made('pointermove', places.at(-1), {
    coalescedEvents: places.map(at => made('pointermove', at))}));
  stage.dispatchEvent(made('pointerup', places.at(-1)));
  return window.put;
}"""


@pytest.mark.slow
def test_many_places_of_one_frame_are_shown_once(tab: Any) -> None:
    tab.open(f"change/asset:{large(tab)}")
    tab.js(COUNT)
    stage = tab.page.locator(".stage")
    stage.press("Control+1")  # a pixel of the picture on one of the screen
    box = stage.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for size in (40, 512):
        tab.page.get_by_role("slider", name="Size").fill(str(size))
        put = stage.evaluate(MOVE, [[x + 2 * step, y + step] for step in range(12)])  # as a quick pen gives them
        assert 0 < sum(put) < (size + 4 + 22) * (size + 4 + 11), f"size {size}: one rectangle around all of them"


def large(tab: Any) -> str:
    """A picture of 2048 pixels, as the server has it. -> its id"""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((2048, 2048)).convert("RGB").save(buffer, "PNG")
    upload = tab.server.api.post("/v1/assets", files={"file": ("large.png", buffer.getvalue())}).json()
    return str(upload["id"])
