"""What a page asks besides jobs and pictures: words, hints, settings of pictures, models, the queue, one stream."""

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file
from starlette.testclient import TestClient

from gesso.api.context import Context
from gesso.api.helper import Helper
from gesso.api.problems import HttpError
from gesso.api.reading import WITH_OPENCV
from serving.served import CAR, PNG, client, context, drawn, finish, lease, problem, server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place of one's own for models and styles."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GESSO_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def made(home: Path) -> Iterator[Context]:
    lists = home / "wildcards"
    lists.mkdir()
    (lists / "colours.txt").write_text("red\ngreen\n", encoding="utf-8")
    (home / "styles.csv").write_text("name,prompt,negative_prompt\nInk,{prompt} in ink,photo\n", encoding="utf-8")
    (home / "server").mkdir()
    with context(home / "server", rate=10**6, wildcards=lists) as opened:
        yield opened


@pytest.fixture(scope="module")
def asking(made: Context) -> Iterator[TestClient]:
    with client(made) as opened:
        yield opened


# ---- words -----------------------------------------------------------------------------------------------------------


def read(asking: TestClient, prompt: str, **more: Any) -> dict[str, Any]:
    front = {"front": more.pop("front")} if "front" in more else {}
    answer = asking.post("/v1/prompts", json={"request": {"prompt": prompt, **more}, **front})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_prompt_is_read_as_the_model_reads_it(asking: TestClient) -> None:
    found = read(asking, "a (red:1.3) cat and a zebroid with a rabit", negative_prompt="dogs", width="half-typed")
    prompt, negative = found["fields"]
    (text,) = prompt["texts"]
    assert 3 <= text["tokens"][0] <= 9
    assert text["pieces"][1] == {"text": "red", "weight": 1.3} and text["room"] > text["tokens"][0]
    assert {"word": "rabit", "nearest": "rabbit", "field": "prompt"} in found["unknown"]
    assert next(one for one in found["unknown"] if one["word"] == "zebroid")["nearest"] in (None, "zebra")
    assert found["language"] is None and negative["texts"][0]["tokens"] == [1]
    assert not [one for one in prompt["notices"] if one["code"] == "no_object"]


def test_other_languages_and_prompts_of_nothing_are_told(asking: TestClient) -> None:
    found = read(asking, "eine rote Katze")
    assert found["language"] == {"code": "de", "name": "German", "english": "a red cat"}
    (notice,) = read(asking, "justice, freedom")["fields"][0]["notices"]
    assert notice["code"] == "no_object" and "knows nothing" in notice["message"]
    assert read(asking, "")["unknown"] == []


def test_a_prompt_that_cannot_be_read_says_where(asking: TestClient) -> None:
    asked = {"request": {"prompt": "a cat <lora:nowhere:1>"}}
    found = problem(asking.post("/v1/prompts", json=asked), 400, "invalid_field", "request.prompt")
    assert "nowhere" in found["detail"] and "comic" in found["detail"] and "/" not in found["detail"]
    problem(asking.post("/v1/prompts", json={"request": {"prompt": 7}}), 400, "invalid_field", "request.prompt")
    problem(asking.post("/v1/prompts", json={"model": "x", "request": {"prompt": ""}}), 400, "unknown_name", "model")
    drawn_from = read(asking, "a {red|red} cat", seed=3, front={"dynamic": True})
    assert drawn_from["prompt"] == "a red cat"


def test_loras_of_a_prompt_are_found(asking: TestClient) -> None:
    (lora,) = read(asking, "a cat <lora:comic:0.7>")["loras"]
    assert (lora["name"], lora["weight"]) == ("comic", 0.7) and "matched" in lora["fit"]


def test_what_may_be_completed(asking: TestClient) -> None:
    items = asking.get("/v1/completions").json()["items"]
    kinds = {kind: [one for one in items if one["kind"] == kind] for kind in {one["kind"] for one in items}}
    assert {"lora", "object", "wildcard", "style", "syntax"} <= kinds.keys()
    assert "<lora:comic:1>" in [one["insert"] for one in kinds["lora"]]
    assert [one["insert"] for one in kinds["wildcard"]] == ["__colours__"]
    assert (kinds["style"][0]["label"], kinds["style"][0]["detail"]) == ("Ink", "{prompt} in ink")
    (cat,) = [one for one in kinds["object"] if one["label"] == "cat"]
    assert "kitten" in cat["aliases"]
    problem(asking.get("/v1/completions?model=nothing"), 400, "unknown_name", "model")


def test_the_helper_starts_again_and_never_hangs(made: Context) -> None:
    helper = Helper()
    try:
        with pytest.raises(HttpError) as caught:
            helper.ask("prompts", seconds=0.05, model="", request={}, front={}, library="", wildcards=None)
        assert (caught.value.status, caught.value.code) == (503, "overloaded")
        with pytest.raises(HttpError) as caught:
            helper.ask("prompts", model="/nowhere", request={}, front={}, library="", wildcards=None)
        assert caught.value.code == "internal" and "nowhere" not in caught.value.detail
        assert helper._process is not None
        helper._process.kill()
        helper._process.wait()
        with pytest.raises(HttpError) as caught:
            helper.ask("hint", name="nothing", image="x", mask=None, size=[1, 1], parameters={}, made="x")
        assert caught.value.code == "unknown_name", "another process answered"
    finally:
        helper.close()
    with pytest.raises(HttpError):
        helper.ask("hint")


# ---- hints -----------------------------------------------------------------------------------------------------------


def upload(asking: TestClient, size: tuple[int, int] = (96, 64)) -> str:
    buffer = io.BytesIO()
    image = Image.new("RGB", size, "white")
    image.paste("black", (24, 16, 72, 48))
    image.save(buffer, "PNG")
    return str(asking.post("/v1/assets", files={"file": ("x.png", buffer.getvalue())}).json()["id"])


def test_preprocessors_are_listed(asking: TestClient) -> None:
    rows = {one["name"]: one for one in asking.get("/v1/preprocessors").json()["preprocessors"]}
    assert rows["canny"]["parameters"][0]["name"] == "low" and rows["inpaint"]["needs_mask"]
    assert set(WITH_OPENCV) - {"openpose"} <= rows.keys() and all(one["available"] for one in rows.values())


def test_a_hint_is_made_as_a_job_would(asking: TestClient) -> None:
    from gesso.hints.registry import preprocess

    image = upload(asking)
    body = {"preprocessor": "invert", "image": image, "width": 48, "height": 32}
    answer = asking.post("/v1/hints", json=body)
    assert answer.status_code == 201, answer.text
    made = Image.open(io.BytesIO(asking.get(answer.json()["content_url"]).content)).convert("RGB")
    source = io.BytesIO(asking.get(f"/v1/assets/{image}/content").content)
    assert made.size == (48, 32) and made.getpixel((24, 16)) == (255, 255, 255)
    expected = preprocess("invert", Image.open(source).convert("RGB"), (48, 32))
    assert made.tobytes() == expected.convert("RGB").tobytes()
    again = asking.post("/v1/hints", json=body)
    assert again.status_code == 200 and again.json()["id"] == answer.json()["id"]
    edges = {"request": {"prompt": "a car", "controls": [{"model": "gesso-edges"}]}}
    assert asking.post("/v1/jobs", json=edges | {"assets": {"hint:0": answer.json()["id"]}}).status_code in (202, 400)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"preprocessor": "cany"}, "unknown_name", "preprocessor"),
        ({"image": "nothing"}, "asset_missing", "image"),
        ({"mask": "nothing"}, "invalid_field", "mask"),
        ({"preprocessor": "inpaint"}, "mask_missing", "mask"),
        ({"parameters": {"lw": 1}}, "unknown_name", "parameters"),
        ({"parameters": {"low": -1}}, "invalid_field", "parameters.low"),
        ({"width": 8}, "invalid_field", "width"),
        ({"width": 16384, "height": 16384}, "too_large", "width"),
    ],
)
def test_hints_that_cannot_be(asking: TestClient, change: dict[str, Any], code: str, field: str) -> None:
    body = {"preprocessor": "canny", "image": upload(asking), "width": 64, "height": 64} | change
    answer = asking.post("/v1/hints", json=body)
    found = problem(
        answer, 400, code if code != "too_large" or answer.json()["code"] == code else "invalid_field", field
    )
    assert "/tmp" not in found["detail"]


# ---- settings in pictures --------------------------------------------------------------------------------------------


def picture(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def test_settings_of_another_tool_are_read(asking: TestClient) -> None:
    settings = "Steps: 12, Sampler: Euler a, CFG scale: 6, Seed: 77, Size: 64x48, Model: Mine"
    text = f"a red car\nNegative prompt: dogs\n{settings}"
    answer = asking.post("/v1/metadata", files={"file": ("../../x.png", picture(parameters=text))})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["tool"], found["model"], found["model_here"]) == ("A1111", "Mine", None)
    assert (found["settings"]["prompt"], found["settings"]["seed"], found["width"]) == ("a red car", 77, 64)
    assert found["settings"]["negative_prompt"] == "dogs" and found["pairs"]["Steps"] == "12"
    named = asking.post("/v1/metadata", files={"file": ("x", picture(parameters=text.replace("Mine", "gesso-mini")))})
    assert named.json()["model_here"] == "gesso-mini"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (picture(), 400, "no_settings"),
        (PNG, 400, "no_settings"),
        (b"GIF89a" + b"\0" * 100, 400, "damaged"),
        (picture()[:60], 400, "damaged"),
        (b"", 400, "damaged"),
        (picture(parameters="a" * 2_000_000), 400, None),
        (picture(prompt='{"1": ' * 5000), 400, None),
        (picture(**{"gesso:recipe": "{"}), 400, None),
    ],
    ids=["none", "plain", "gif", "cut", "empty", "long", "deep", "broken"],
)
def test_pictures_without_settings_are_refused(asking: TestClient, data: bytes, status: int, code: str | None) -> None:
    answer = asking.post("/v1/metadata", files={"file": ("x.png", data)})
    assert answer.status_code in (200, status), answer.text
    if code is not None:
        problem(answer, status, code, "file")
    assert "/tmp" not in answer.text and "gesso-metadata" not in answer.text


# ---- models ----------------------------------------------------------------------------------------------------------


def lora() -> bytes:
    """The bytes of a LoRA for SD 1.x, with words of its author."""
    import tempfile

    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{name}.lora_down.weight": torch.zeros(4, 320),
        f"{name}.lora_up.weight": torch.zeros(320, 4),
        f"{name}.alpha": torch.tensor(4.0),
    }
    words = {
        "modelspec.license": "CC0-1.0",
        "ss_tag_frequency": json.dumps({"10_ink": {"ink style": 40, "paper": 7}}),
        "modelspec.title": "Ink <script>alert(1)</script>",
    }
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "x.safetensors"), words)
        return Path(folder, "x.safetensors").read_bytes()


RAW = {"Content-Type": "application/octet-stream"}


def test_a_model_file_is_taken_into_the_library(made: Context, asking: TestClient, home: Path) -> None:
    data = lora()
    answer = asking.post("/v1/models?name=My%20ink.safetensors", content=data, headers=RAW)
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert (found["name"], found["kind"], found["use"], found["is_new"]) == ("My ink", "lora", "adapter", True)
    assert (found["license"], found["trigger_words"]) == ("CC0-1.0", ["ink style", "paper"])
    (card,) = [one for one in asking.get("/v1/adapters").json()["adapters"] if one["name"] == "My ink"]
    assert card["title"].startswith("Ink <script>") and card["thumbnail_url"] is None and card["sha256"]
    again = asking.post("/v1/models?name=Other.safetensors", content=data, headers=RAW)
    assert again.status_code == 200 and (again.json()["is_new"], again.json()["name"]) == (False, "My ink")
    assert list((home / "server" / "incoming").iterdir()) == [], "nothing is left of what came"
    Image.new("RGB", (900, 600), "teal").save(next(home.rglob("My ink.safetensors")).with_suffix(".png"))
    (card,) = [one for one in asking.get("/v1/adapters").json()["adapters"] if one["name"] == "My ink"]
    small = asking.get(card["thumbnail_url"])
    assert small.headers["content-type"] == "image/webp" and Image.open(io.BytesIO(small.content)).width == 384
    problem(asking.get("/v1/models/gesso-mini/thumbnail"), 404, "not_found")


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("x.safetensors", b"no model at all" * 100, 400, None),
        ("x.safetensors", b"", 400, "invalid_request"),
        ("x.exe", b"MZ", 400, "unsupported"),
        ("../../x.safetensors", b"x", 400, "invalid_name"),
        ("..%2Fx.safetensors", b"x", 400, "invalid_name"),
        (".hidden.safetensors", b"x", 400, "invalid_name"),
        pytest.param("x.ckpt", b"\x80\x02cos\nsystem\n(S'true'\ntR.", 400, None, marks=pytest.mark.slow),
    ],
)
@pytest.mark.sampled(2)
def test_what_is_no_model_is_refused(
    asking: TestClient, home: Path, name: str, data: bytes, status: int, code: str | None
) -> None:
    answer = asking.post(f"/v1/models?name={name}", content=data, headers=RAW)
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code
    assert str(home) not in answer.text
    incoming = home / "server" / "incoming"
    assert not incoming.exists() or list(incoming.iterdir()) == []


def test_models_come_from_admins_and_within_bounds(tmp_path: Path) -> None:
    with context(tmp_path, max_model=0) as made, client(made) as asking:
        problem(asking.post("/v1/models?name=x.safetensors", content=b"x", headers=RAW), 403, "forbidden")
    with context(tmp_path, max_model=2**20 + 1) as made:
        with client(made) as asking:
            problem(
                asking.post("/v1/models?name=x.safetensors", content=b"x" * (2**20 + 2), headers=RAW), 413, "too_large"
            )
            problem(asking.post("/v1/models?name=x.safetensors", json={}), 415, "unsupported_media_type")
        key = made.keys.add("ann")[1]
        with client(made, key) as asking:
            problem(asking.post("/v1/models?name=x.safetensors", content=b"x", headers=RAW), 403, "forbidden")


# ---- the queue and its stream ----------------------------------------------------------------------------------------


def test_pausing_and_the_order_of_jobs(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        first, second = (asking.post("/v1/jobs", json=CAR).json()["id"] for _ in range(2))
        assert asking.post("/v1/queue/pause").json() == {"paused": True, "counts": {"queued": 2}, "workers": []}
        assert made.store.claim("a test", lease_seconds=60) is None
        moved = asking.post(f"/v1/jobs/{second}/priority", json={"priority": 3}).json()
        assert (moved["priority"], moved["queue_position"]) == (3, 0)
        assert asking.get(f"/v1/jobs/{first}").json()["queue_position"] == 1
        assert not asking.post("/v1/queue/resume").json()["paused"]
        held = lease(made)
        assert held.job.id == second
        problem(asking.post(f"/v1/jobs/{second}/priority", json={"priority": 1}), 409, "job_not_queued")
        problem(asking.post(f"/v1/jobs/{first}/priority", json={"priority": 11}), 400, "invalid_field", "priority")
        problem(asking.post("/v1/jobs/nothing/priority", json={"priority": 1}), 404, "not_found")
        asking.post("/v1/queue/pause")
        finish(made, held)
        assert asking.get(f"/v1/jobs/{second}").json()["status"] == "succeeded", "what runs is finished"


class Listener:
    """Everything that the stream of all sends, read in a thread."""

    def __init__(self, url: str, headers: dict[str, str] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.last = ""
        self._response: Any = None
        self._thread = threading.Thread(target=self._read, args=(url, headers or {}), daemon=True)
        self._thread.start()

    def _read(self, url: str, headers: dict[str, str]) -> None:
        try:
            with httpx.stream("GET", f"{url}/v1/events", headers=headers, timeout=30) as answer:
                assert answer.status_code == 200
                self._response, kind = answer, ""
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "id":
                        self.last = value
                    elif name == "event":
                        kind = value
                    elif name == "data":
                        self.events.append((kind, json.loads(value)))
        except httpx.HTTPError:
            pass

    def wait(self, kind: str, **held: Any) -> dict[str, Any]:
        """The first event of a kind with these values that was not waited for yet."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for place, (own, data) in enumerate(self.events):
                if own == kind and all(data.get(key) == value for key, value in held.items()):
                    del self.events[: place + 1]
                    return data
            time.sleep(0.02)
        raise AssertionError(f"no {kind} with {held} in {[(own, data.get('status')) for own, data in self.events]}")


def test_one_stream_tells_everything(tmp_path: Path) -> None:
    with context(tmp_path) as made, server(made) as url, httpx.Client(base_url=url) as asking:
        waiting = asking.post("/v1/jobs", json=CAR).json()["id"]
        heard = Listener(url)
        assert heard.wait("queue") == {"paused": False}
        assert heard.wait("job", id=waiting)["status"] == "queued"
        held = lease(made)
        heard.wait("job", id=waiting, status="running")
        made.store.progress(held, {"value": 0.5, "step": 4, "steps": 8})
        assert heard.wait("progress", job=waiting)["value"] == 0.5
        made.store.preview(held, "image/jpeg", b"small")
        assert heard.wait("preview", job=waiting)["content_type"] == "image/jpeg"
        finish(made, held)
        heard.wait("gallery")  # the picture, before the end
        heard.events.clear()
        done = asking.get(f"/v1/jobs/{waiting}").json()
        assert done["status"] == "succeeded" and len(done["outputs"]) == 1
        asking.post("/v1/boards", json={"name": "x"})
        heard.wait("gallery")
        asking.post("/v1/queue/pause")
        assert heard.wait("queue") == {"paused": True}
        later = asking.post("/v1/jobs", json=CAR).json()["id"]
        heard.wait("job", id=later, status="queued")
        last = heard.last
        asking.delete(f"/v1/jobs/{waiting}")
        asking.post(f"/v1/jobs/{later}/cancel")
        heard.wait("job", id=later, status="canceled")
        again = Listener(url, {"Last-Event-ID": last})
        again.wait("job", id=later, status="canceled")
        problem(asking.get("/v1/events", headers={"Last-Event-ID": "x"}), 400, "invalid_field", "Last-Event-ID")
        assert asking.head("/v1/events").status_code == 200


def test_the_stream_of_one_key_tells_nothing_of_anothers(tmp_path: Path) -> None:
    with context(tmp_path) as made, server(made) as url:
        texts = {name: made.keys.add(name)[1] for name in ("ann", "bob")}
        clients = {
            name: httpx.Client(base_url=url, headers={"X-API-Key": text}, timeout=30) for name, text in texts.items()
        }
        heard = Listener(url, {"X-API-Key": texts["bob"]})
        heard.wait("queue")
        drawn(made, clients["ann"])
        own = clients["bob"].post("/v1/jobs", json=CAR).json()["id"]
        heard.wait("job", id=own)
        assert heard.events == [], "only bob's own job came"
        problem(httpx.get(f"{url}/v1/events"), 401, "unauthorized")
        for one in clients.values():
            one.close()


def test_streams_are_bounded(tmp_path: Path) -> None:
    with context(tmp_path, max_streams=1) as made, server(made) as url:
        Listener(url).wait("queue")
        problem(httpx.get(f"{url}/v1/events"), 503, "overloaded")
