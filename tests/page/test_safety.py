"""Text of strangers stays text: in prompts, names of files, and what files say of themselves."""

import json
from typing import Any
from urllib.parse import quote

from page.pictures import A1111, embedding, png
from page.served import PageServer

RUN = "window.__seen.xss=1"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f'"><img src=x onerror={RUN}>',
    f"'><svg/onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f'<a href="javascript:{RUN}">press</a>',
    f"<details open ontoggle={RUN}>",
    f"<body onload={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"<video><source onerror={RUN}>",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<template><script>{RUN}</script></template>",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"${{{RUN}}} {{@html '<img src=x onerror={RUN}>'}}",
    f"javascript:{RUN}//",
    f"data:text/html,<script>{RUN}</script>",
    f"</textarea></title></style></script><script>{RUN}</script>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'><base href=//evil.example/>",
)
VIEWS = ("draw", "library", "queue", "history", "grids", "models", "change")


def inert(tab: Any) -> None:
    """Nothing ran, and nothing of it became an element."""
    assert tab.js("() => window.__seen.xss") == 0
    made = tab.js(
        """() => [...document.querySelectorAll('*')].filter(one =>
             [...one.attributes].some(a => a.name.startsWith('on')
               || (/^(href|src|action|formaction|data|xlink:href)$/.test(a.name)
                 && /^\\s*(javascript|data:text)/i.test(a.value)))
             || (one.localName === 'img' && one.getAttribute('src') === 'x')
             || ['iframe', 'object', 'embed', 'base'].includes(one.localName)
             || (one.localName === 'script' && one.textContent !== '')).map(one => one.outerHTML.slice(0, 200))"""
    )
    assert made == []
    assert tab.js("() => window.__seen.violations") == [], "the policy would have caught it; it should not come so far"


def test_twenty_payloads_in_prompts_are_text_everywhere(server: PageServer, tab: Any) -> None:
    assert len(PAYLOADS) == 20
    # A picture's view that is being left may still see the next view's id, and asks for it in vain.
    tab.allow("404 GET .*/v1/images/.*/metadata|derived_inert")
    jobs = [
        {"request": {"prompt": text, "negative_prompt": text, "num_steps": 1}, "metadata": {"axes": {text: text}}}
        for text in PAYLOADS
    ]
    answer = server.api.post("/v1/batches", json={"jobs": jobs, "batch": PAYLOADS[1]})
    assert answer.status_code == 202, answer.text
    drawn = [server.wait(id, "succeeded", "failed") for id in answer.json()["jobs"]]
    drawn = [job for job in drawn if job["outputs"]]
    assert len(drawn) >= 15, "some are no prompts that can be read, such as those with an open brace"
    server.api.post("/v1/boards", json={"name": PAYLOADS[2]}).raise_for_status()
    for view in VIEWS:
        tab.open(view)
        if view == "library":
            tab.page.locator(f'[data-picture="{drawn[-1]["outputs"][0]["id"]}"]').wait_for()
        if view in ("history", "queue"):
            tab.page.get_by_text(PAYLOADS[-1]).first.wait_for(state="attached")
        tab.page.wait_for_timeout(200)
        inert(tab)
    for job in drawn[:: len(drawn) // 5]:
        tab.open(f"picture/{job['outputs'][0]['id']}")
        tab.page.get_by_text(job["request"]["prompt"]).first.wait_for()
        inert(tab)
    tab.open(f"grids/{quote(PAYLOADS[1], safe='')}")
    inert(tab)


def test_payloads_that_are_typed_are_text(server: PageServer, tab: Any) -> None:
    tab.open()
    for text in PAYLOADS:
        tab.field("Prompt").fill(text)
        tab.page.wait_for_timeout(60)
    tab.page.wait_for_timeout(800)  # what the server says of the last has come
    inert(tab)
    tab.open("library")
    tab.page.get_by_role("searchbox").fill(PAYLOADS[1])
    tab.page.get_by_text(PAYLOADS[1]).first.wait_for(state="attached")
    inert(tab)
    tab.page.goto(f"{server.address}/#/{PAYLOADS[1]}?job={PAYLOADS[0]}")
    tab.page.wait_for_timeout(200)
    inert(tab)


def test_names_of_files_and_what_they_say_are_text(server: PageServer, tab: Any) -> None:
    tab.allow("4.. POST")
    tab.open("library")
    for text in (PAYLOADS[1], PAYLOADS[4], PAYLOADS[18]):
        data = png(A1111.replace("a blue bird, in a tree", text).replace("Euler a", text.replace(",", "")))
        tab.paste_files("body", [(f"{text}.png", "image/png", data)])
        tab.page.get_by_role("dialog").wait_for()
        tab.page.wait_for_timeout(700)
        inert(tab)
        tab.page.keyboard.press("Escape")
        tab.page.get_by_role("dialog").wait_for(state="hidden")
    tab.paste_files("body", [(f"{PAYLOADS[1]}.exe", "application/x-msdownload", b"MZ")])
    tab.page.get_by_text(PAYLOADS[1]).first.wait_for(state="attached")
    inert(tab)


def test_what_a_model_says_of_itself_is_text(server: PageServer, tab: Any) -> None:
    names = ("title", "author", "license", "description", "trigger_phrase", "architecture")
    notes = {f"modelspec.{name}": PAYLOADS[number] for number, name in enumerate(names)}
    notes |= {PAYLOADS[1]: PAYLOADS[2], "ss_tag_frequency": json.dumps({"x": {PAYLOADS[3]: 9}})}
    notes["modelspec.thumbnail"] = f"data:image/svg+xml,{PAYLOADS[2]}"
    tab.open("models")
    tab.paste_files("body", [("strange.safetensors", "", embedding(notes, 0.5))])
    tab.page.locator('[data-import="done"]').wait_for(timeout=90_000)
    card = tab.page.locator('[data-card="strange"]')
    card.wait_for()
    inert(tab)
    card.get_by_role("button", name="About strange").click()
    tab.page.get_by_role("dialog").get_by_text(PAYLOADS[1]).first.wait_for()
    inert(tab)


def test_the_page_may_be_in_no_frame_and_load_nothing_from_elsewhere(server: PageServer) -> None:
    answer = server.api.get("/", headers={"Accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert part in policy, policy
    assert "unsafe" not in policy


def test_a_browser_that_keeps_nothing_draws_all_the_same(server: PageServer, tab: Any) -> None:
    tab.context.add_init_script(
        """for (const name of ['localStorage', 'sessionStorage'])
             Object.defineProperty(window, name, {get() { throw new DOMException('off', 'SecurityError'); }});"""
    )
    tab.open()
    tab.page.get_by_role("alert").get_by_text("This browser keeps nothing").wait_for()
    tab.field("Prompt").fill("a red car")
    tab.page.keyboard.down("Control")
    for _ in range(5):
        tab.page.keyboard.down("Enter")  # a key that is held draws once
    tab.page.keyboard.up("Enter")
    tab.page.keyboard.up("Control")
    server.until(server.jobs)
    tab.page.wait_for_timeout(300)
    assert len(server.jobs()) == 1
