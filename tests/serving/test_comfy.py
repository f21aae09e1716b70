"""The surface in ComfyUI's words in one process: routes, sockets, keys. The worker's part is played by the tests."""

import io
import json
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import delete
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from gesso.api.context import Context
from gesso.server.app import create_app
from gesso.serving.jobs import JobStatus
from gesso.serving.tables import jobs, uploads
from gesso.surfaces.comfy import prompts, watching
from gesso.surfaces.comfy.sockets import MAX_MESSAGE, with_sockets
from gesso.surfaces.comfy.watching import Socket
from serving import comfy_graphs as graphs
from serving.served import PNG, context, finish, lease, server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Context, TestClient]]:
    """A server and a client, which the tests share: making one takes longer than most of them."""
    with context(tmp_path_factory.mktemp("server"), rate=10**6) as made, client(made) as asking:
        yield made, asking


@pytest.fixture
def made(running: tuple[Context, TestClient]) -> Context:
    """The server, with nothing in it."""
    with running[0].store.database.writing() as connection:
        for table in (jobs, uploads):
            connection.execute(delete(table))
    return running[0]


@pytest.fixture
def asking(running: tuple[Context, TestClient], made: Context) -> TestClient:
    return running[1]


def listening(asking: TestClient, client: str = "me", **headers: str) -> WebSocketTestSession:
    """A socket of a client."""
    query = f"?clientId={client}" if client else ""
    return asking.websocket_connect(f"ws://127.0.0.1:7860/ws{query}", headers=headers)


@contextmanager
def client(made: Context, key: str | None = None) -> Iterator[TestClient]:
    """A client of the application with sockets."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    app = with_sockets(create_app(made))
    with TestClient(app, base_url="http://127.0.0.1:7860", headers=headers) as asking:
        yield asking


def png(size: tuple[int, int] = (64, 48), mode: str = "RGB", colour: Any = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.radial_gradient("L").resize(size).convert(mode) if colour is None else Image.new(mode, size, colour)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def upload(asking: TestClient, data: bytes | None = None, name: str = "cat.png", **fields: str) -> Any:
    files = {"image": (name, png() if data is None else data, "image/png")}
    return asking.post("/upload/image", files=files, data=fields)


def submit(asking: TestClient, graph: Any, **body: Any) -> str:
    answer = asking.post("/prompt", json={"prompt": graph, **body})
    assert answer.status_code == 200, answer.text
    assert answer.json()["node_errors"] == {}
    return str(answer.json()["prompt_id"])


def error_of(answer: Any, status: int = 400) -> Any:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error", "node_errors"}
    assert set(found["error"]) == {"type", "message", "details", "extra_info"}
    return found["error"]


def said(socket: WebSocketTestSession, until: str, **data: Any) -> list[Any]:
    """What a socket says, up to a message of this type with these data; "": the next. Frames of bytes as they are."""
    found: list[Any] = []
    for _ in range(100):
        message = socket.receive()
        if message["type"] != "websocket.send":
            raise AssertionError(message)
        if message.get("bytes") is not None:
            found.append(message["bytes"])
            if not until:
                return found
            continue
        found.append(json.loads(message["text"]))
        if until in ("", found[-1]["type"]) and all(found[-1]["data"].get(key) == value for key, value in data.items()):
            return found
    raise AssertionError(f"no {until} in {found}")


def types(messages: list[Any]) -> list[str]:
    return [one["type"] for one in messages if isinstance(one, dict)]


# ---- a prompt from its beginning to its end --------------------------------------------------------------------------


def test_a_prompt_is_drawn_told_and_fetched(made: Context, asking: TestClient) -> None:
    with listening(asking) as socket:
        (hello,) = said(socket, "status")
        assert hello["data"] == {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}
        graph = graphs.text_to_image()
        prompt = submit(asking, graph, client_id="me", extra_data={"extra_pnginfo": {"workflow": {"id": 1}}})
        assert said(socket, "status")[-1]["data"]["status"]["exec_info"]["queue_remaining"] == 1
        assert asking.get("/prompt").json() == {"exec_info": {"queue_remaining": 1}}
        assert asking.get(f"/history/{prompt}").json() == {}
        (waiting,) = asking.get("/queue").json()["queue_pending"]
        assert waiting[1:3] == [prompt, graph] and waiting[4] == ["9"]
        assert waiting[3]["extra_pnginfo"] == {"workflow": {"id": 1}} and waiting[3]["client_id"] == "me"

        held = lease(made)
        assert held.job.work.model == "gesso-mini" and held.job.work.request["seed"] == 7
        made.store.progress(held, {"value": 0.5, "step": 3, "steps": 6, "picture": 1, "pictures": 1})
        messages = said(socket, "progress")
        assert types(messages)[:2] == ["execution_start", "execution_cached"]
        nodes = [one["data"]["node"] for one in messages if one["type"] == "executing"]
        assert nodes[-1] == "3" and set(nodes) == {"4", "5", "6", "7", "3"} and nodes.index("4") < nodes.index("6")
        assert messages[-1]["data"] == {"value": 3, "max": 6, "prompt_id": prompt, "node": "3"}
        assert asking.get("/queue").json()["queue_running"][0][1] == prompt

        output = finish(made, held)
        messages = said(socket, "executing", node=None)
        (executed,) = (one["data"] for one in messages if one["type"] == "executed")
        (image,) = executed["output"]["images"]
        assert (executed["node"], image["subfolder"], image["type"]) == ("9", "", "output")
        assert image["filename"] == f"ComfyUI_{output.id}_.png"
        kinds = types(messages)
        assert kinds.index("execution_success") < len(kinds) - 1 and "status" in kinds[kinds.index("executed") :]

    history = asking.get(f"/history/{prompt}").json()[prompt]
    assert history["outputs"] == {"9": {"images": [image]}}
    assert history["status"]["status_str"] == "success" and history["status"]["completed"] is True
    assert [kind for kind, _ in history["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    assert history["prompt"][1:3] == [prompt, graph]
    assert history["meta"]["9"]["display_node"] == "9"
    assert asking.get("/history").json() == {prompt: history}
    answer = asking.get("/view", params=image)
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    assert asking.get("/api/view", params=image).content == PNG
    small = asking.get("/view", params={**image, "preview": "webp;50"})
    assert small.headers["content-type"] == "image/webp" and small.content[8:12] == b"WEBP"
    assert asking.get("/queue").json() == {"queue_running": [], "queue_pending": []}


def test_history_is_there_before_the_end_is_told_and_after_a_restart(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking, listening(asking) as socket:
        prompt = submit(asking, graphs.text_to_image(), client_id="me")
        finish(made, lease(made))
        for message in said(socket, "executing", node=None):
            if message["type"] == "execution_success" or message["data"].get("node", "") is None:
                assert prompt in asking.get(f"/history/{prompt}").json()
    with context(tmp_path) as made, client(made) as asking:
        assert list(asking.get("/history").json()) == [prompt]


def test_a_client_that_connects_late_is_told_of_the_end(made: Context, asking: TestClient) -> None:
    prompt = submit(asking, graphs.text_to_image(), client_id="late")
    finish(made, lease(made))
    with listening(asking, "late") as socket:
        messages = said(socket, "executing", node=None)
        assert types(messages) == ["status", "execution_success", "executing"]
        assert messages[-1]["data"]["prompt_id"] == prompt
        assert messages[0]["data"]["status"]["exec_info"]["queue_remaining"] == 0
    with listening(asking, "late") as socket:  # but once
        assert types(said(socket, "status")) == ["status"]
        submit(asking, graphs.text_to_image(seed=8), client_id="late")
        assert types(said(socket, "status")) == ["status"]


def test_a_prompt_between_handshake_and_greeting_is_told(
    made: Context, asking: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that submits as soon as it is connected, while the server still reads what there is to greet it with."""
    submitted: list[str] = []

    def slowly(context: Context, owner: str, **more: Any) -> Any:
        found = prompts.prompts_of(context, owner, **more)
        if not submitted and threading.current_thread() is not threading.main_thread():
            submitted.append("")
            submitted[0] = submit(asking, graphs.text_to_image(), client_id="hasty")
            finish(made, lease(made))
        return found

    monkeypatch.setattr(watching, "prompts_of", slowly)
    with listening(asking, "hasty") as socket:
        messages = said(socket, "executing", node=None)
        assert messages[-1]["data"]["prompt_id"] == submitted[0]
        assert types(messages).count("execution_success") == 1


def test_a_client_that_leaves_and_comes_back_hears_the_rest(made: Context, asking: TestClient) -> None:
    with listening(asking) as socket:
        said(socket, "status")
        prompt = submit(asking, graphs.text_to_image(), client_id="me")
        said(socket, "status")
    with listening(asking) as socket:
        finish(made, lease(made))
        assert said(socket, "executing", node=None)[-1]["data"]["prompt_id"] == prompt


def test_previews_are_for_those_who_can_read_them(made: Context, asking: TestClient) -> None:
    with (
        listening(asking) as plain,
        listening(asking) as knowing,
    ):
        said(plain, "status"), said(knowing, "status")
        knowing.send_text(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        assert said(knowing, "feature_flags")[-1]["data"]["supports_preview_metadata"] is True
        prompt = submit(asking, graphs.text_to_image(), client_id="me")
        held = lease(made)
        made.store.preview(held, "image/jpeg", b"a jpeg")
        frame = next(one for one in iter(lambda: said(knowing, "")[-1], None) if isinstance(one, bytes))
        finish(made, held)
        kind, length = struct.unpack(">II", frame[:8])
        about = json.loads(frame[8 : 8 + length])
        assert (kind, frame[8 + length :]) == (4, b"a jpeg")
        assert (about["node_id"], about["prompt_id"], about["image_type"]) == ("3", prompt, "image/jpeg")
        assert not [one for one in said(plain, "executing", node=None) if isinstance(one, bytes)]
        submit(asking, graphs.text_to_image(seed=8), client_id="me", extra_data={"preview_method": "auto"})
        held = lease(made)
        made.store.preview(held, "image/jpeg", b"a jpeg")
        frame = next(one for one in iter(lambda: said(plain, "")[-1], None) if isinstance(one, bytes))
        assert frame == struct.pack(">II", 1, 1) + b"a jpeg"


def test_pictures_may_come_by_the_socket_alone(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["9"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["8", 0]}}
    with listening(asking) as socket:
        prompt = submit(asking, graph, client_id="me")
        finish(made, lease(made))
        messages = said(socket, "executing", node=None)
        assert struct.pack(">II", 1, 2) + PNG in messages
        before = messages[messages.index(struct.pack(">II", 1, 2) + PNG) - 1]
        assert before == {"type": "executing", "data": {"node": "9", "display_node": "9", "prompt_id": prompt}}
    assert asking.get(f"/history/{prompt}").json()[prompt]["outputs"] == {}


def test_several_outputs_are_several_jobs_of_one_prompt(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["60"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    graph["61"] = {**graph["3"], "inputs": {**graph["3"]["inputs"], "seed": 8}}
    graph["62"] = {"class_type": "VAEDecode", "inputs": {"samples": ["61", 0], "vae": ["4", 2]}}
    graph["63"] = {"class_type": "SaveImage", "inputs": {"images": ["62", 0], "filename_prefix": "a/b"}}
    prompt = submit(asking, graph)
    assert made.store.counts() == {JobStatus.QUEUED: 2}
    first = finish(made, lease(made))
    assert asking.get(f"/history/{prompt}").json() == {}
    second = finish(made, lease(made))
    outputs = asking.get(f"/history/{prompt}").json()[prompt]["outputs"]
    assert outputs == {
        "9": {"images": [{"filename": f"ComfyUI_{first.id}_.png", "subfolder": "", "type": "output"}]},
        "60": {"images": [{"filename": f"ComfyUI_temp_{first.id}_.png", "subfolder": "", "type": "temp"}]},
        "63": {"images": [{"filename": f"b_{second.id}_.png", "subfolder": "a", "type": "output"}]},
    }
    for output in outputs.values():
        assert asking.get("/view", params=output["images"][0]).content == PNG


def test_only_some_outputs_may_be_wanted(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["10"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}}
    prompt = submit(asking, graph, partial_execution_targets=["10"])
    finish(made, lease(made))
    assert list(asking.get(f"/history/{prompt}").json()[prompt]["outputs"]) == ["10"]


def test_a_picture_beside_the_drawn_one_is_shown_as_it_is(made: Context, asking: TestClient) -> None:
    upload(asking)
    graph = graphs.image_to_image("cat.png")
    graph["20"] = {"class_type": "ImageInvert", "inputs": {"image": ["10", 0]}}
    graph["21"] = {"class_type": "PreviewImage", "inputs": {"images": ["20", 0]}}
    prompt = submit(asking, graph)
    finish(made, lease(made))
    outputs = asking.get(f"/history/{prompt}").json()[prompt]["outputs"]
    shown = asking.get("/view", params=outputs["21"]["images"][0])
    source = Image.open(io.BytesIO(png())).convert("RGB")
    inverted = Image.open(io.BytesIO(shown.content))
    assert inverted.getpixel((3, 4)) == tuple(255 - level for level in source.getpixel((3, 4)))  # type: ignore[union-attr]
    del graph["9"]
    assert "nothing is drawn" in asking.post("/prompt", json={"prompt": graph}).json()["error"]["details"]


def test_what_is_drawn_is_enlarged_then(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["20"] = {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["8", 0], "upscale_method": "lanczos", "scale_by": 2.0},
    }
    graph["21"] = {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "large"}}
    with listening(asking) as socket:
        prompt = submit(asking, graph, client_id="me")
        finish(made, lease(made), png((128, 128)))
        assert asking.get(f"/history/{prompt}").json() == {}
        held = lease(made)
        assert (held.job.work.kind, held.job.work.model) == ("upscale", "lanczos")
        assert held.job.work.request == {"width": 256, "height": 256} and held.job.batch == prompt
        assert asking.get("/prompt").json()["exec_info"]["queue_remaining"] == 1
        finish(made, held)
        messages = said(socket, "executing", node=None)
        assert [one["data"]["node"] for one in messages if one["type"] == "executed"] == ["9", "21"]
        assert "20" in [one["data"]["node"] for one in messages if one["type"] == "executing"]
    outputs = asking.get(f"/history/{prompt}").json()[prompt]["outputs"]
    assert outputs["21"]["images"][0]["filename"].startswith("large_")
    assert asking.get("/view", params=outputs["21"]["images"][0]).content == PNG
    assert asking.get(f"/api/v2/jobs/{prompt}").json()["progress"]["value"] == 1.0


def test_what_is_enlarged_then_is_not_where_drawing_failed(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["20"] = {
        "class_type": "ImageScale",
        "inputs": {"image": ["8", 0], "upscale_method": "lanczos", "width": 64, "height": 64, "crop": "disabled"},
    }
    graph["9"]["inputs"]["images"] = ["20", 0]
    prompt = submit(asking, graph)
    made.store.fail(lease(made), {"code": "out_of_memory", "message": "too large", "field": None, "data": {}})
    assert asking.get(f"/history/{prompt}").json()[prompt]["status"]["status_str"] == "error"
    assert asking.get("/prompt").json()["exec_info"]["queue_remaining"] == 0


def test_a_failure_is_told_and_kept(made: Context, asking: TestClient) -> None:
    with listening(asking) as socket:
        prompt = submit(asking, graphs.text_to_image(), client_id="me")
        made.store.fail(lease(made), {"code": "out_of_memory", "message": "too large", "field": None, "data": {}})
        messages = said(socket, "executing", node=None)
        (error,) = (one["data"] for one in messages if one["type"] == "execution_error")
        assert (error["prompt_id"], error["node_id"], error["node_type"]) == (prompt, "3", "KSampler")
        assert (error["exception_type"], error["exception_message"]) == ("gesso.out_of_memory", "too large")
    history = asking.get(f"/history/{prompt}").json()[prompt]
    assert history["status"]["status_str"] == "error" and history["status"]["completed"] is False
    assert history["status"]["messages"][-1][0] == "execution_error"


def test_interrupt_stops_what_runs_and_queue_what_waits(made: Context, asking: TestClient) -> None:
    with listening(asking) as socket:
        running, waiting, last = (submit(asking, graphs.text_to_image(seed=n), client_id="me") for n in range(3))
        held = lease(made)
        assert asking.post("/interrupt", json={"prompt_id": waiting}).status_code == 200
        assert made.store.get(held.job.id).status == JobStatus.RUNNING
        assert asking.post("/interrupt").status_code == 200
        assert made.store.get(held.job.id).status == JobStatus.CANCELING
        made.store.canceled(held)
        assert "execution_interrupted" in types(said(socket, "executing", node=None, prompt_id=running))
        assert asking.post("/queue", json={"delete": [waiting]}).content == b""
        assert [item[1] for item in asking.get("/queue").json()["queue_pending"]] == [last]
        assert asking.post("/api/queue", json={"clear": True}).status_code == 200
        assert asking.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    assert set(asking.get("/history").json()) == {running, waiting, last}
    assert asking.post("/history", json={"delete": [waiting]}).status_code == 200
    assert set(asking.get("/history", params={"max_items": 5}).json()) == {running, last}
    assert list(asking.get("/history", params={"max_items": 1}).json()) == [last]
    assert list(asking.get("/history", params={"max_items": 1, "offset": 0}).json()) == [running]
    asking.post("/history", json={"clear": True})
    assert asking.get("/history").json() == {} and made.store.counts() == {}


def test_front_goes_first(made: Context, asking: TestClient) -> None:
    submit(asking, graphs.text_to_image(seed=1))
    first = submit(asking, graphs.text_to_image(seed=2), front=True)
    assert lease(made).job.batch == first


def test_the_newer_list_of_jobs(made: Context, asking: TestClient) -> None:
    done = submit(asking, graphs.text_to_image(seed=1))
    finish(made, lease(made))
    waiting = submit(asking, graphs.text_to_image(seed=2))
    page = asking.get("/api/jobs", params={"limit": 1}).json()
    assert [job["id"] for job in page["jobs"]] == [waiting] and page["pagination"]["has_more"] is True
    assert [job["id"] for job in asking.get("/api/jobs?sort_order=asc").json()["jobs"]] == [done, waiting]
    (only,) = asking.get("/api/jobs", params={"status": "completed"}).json()["jobs"]
    assert (only["id"], only["outputs_count"], only["preview_output"]["type"]) == (done, 1, "output")
    assert asking.get(f"/api/jobs/{waiting}").json()["status"] == "pending"
    assert asking.post(f"/api/jobs/{waiting}/cancel").json() == {"cancelled": True}
    assert asking.post(f"/api/jobs/{waiting}/cancel").json() == {"cancelled": False}
    assert asking.get(f"/api/jobs/{waiting}").json()["status"] == "cancelled"
    assert asking.post("/api/jobs/cancel", json={"job_ids": [done, "x"]}).json()["cancelled"] is False
    error_of(asking.get(f"/api/jobs/{uuid.uuid4()}"), 404)


# ---- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [None, "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "application/json; charset=utf-8"]
)
def test_bodies_need_no_type(made: Context, asking: TestClient, kind: str | None) -> None:
    content = json.dumps({"prompt": graphs.text_to_image()}).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    assert asking.post("/api/prompt", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example"},
    ],
)
def test_pages_of_other_sites_can_neither_ask_nor_listen(
    made: Context, asking: TestClient, headers: dict[str, str]
) -> None:
    """A form and a simple fetch carry these; that the body needs no type gives them nothing."""
    content = json.dumps({"prompt": graphs.text_to_image()}).encode()
    answer = asking.post("/prompt", content=content, headers={"Content-Type": "text/plain", **headers})
    assert answer.status_code in (403, 421)
    assert made.store.counts() == {}
    with pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)), listening(asking, **headers):
        pass


def test_own_page_may_listen(asking: TestClient) -> None:
    with listening(asking, "", Origin="http://127.0.0.1:7860") as socket:
        assert len(said(socket, "status")[0]["data"]["sid"]) == 32


@pytest.mark.parametrize(
    ("body", "type"),
    [
        ({}, "no_prompt"),
        ({"prompt": {}}, "no_prompt"),
        ({"prompt": graphs.text_to_image(), "prompt_id": "mine"}, "invalid_prompt_id"),
        ({"prompt": graphs.text_to_image(), "extra_data": 3}, "invalid_prompt"),
        ({"prompt": graphs.text_to_image(), "client_id": ""}, "invalid_prompt"),
        ({"prompt": graphs.text_to_image(), "partial_execution_targets": "9"}, "invalid_prompt"),
        ({"prompt": graphs.text_to_image(), "partial_execution_targets": ["8"]}, "prompt_no_outputs"),
    ],
)
def test_what_is_no_prompt_is_refused(made: Context, asking: TestClient, body: Any, type: str) -> None:
    assert error_of(asking.post("/prompt", json=body))["type"] == type
    assert made.store.counts() == {}


@pytest.mark.parametrize("key", ["prompt", "workflow", None])
def test_what_the_editor_saves_is_told_how_to_be_exported(made: Context, asking: TestClient, key: str | None) -> None:
    """The file workflow.json of ComfyUI, also where it is sent as the whole body."""
    saved = {"last_node_id": 1, "nodes": [{"id": 1, "type": "KSampler", "widgets_values": [7]}], "links": []}
    body = saved if key is None else {key: saved}
    if key != "workflow":
        error = error_of(asking.post("/prompt", json=body))
        assert error["type"] == "invalid_prompt" and "Export (API)" in error["details"]
    if key != "prompt":
        refused = asking.post("/api/v2/jobs", json=body)
        assert refused.status_code == 422 and refused.json()["error"]["code"] == "workflow_format_ui"
        assert "Export (API)" in refused.json()["error"]["message"]
    assert made.store.counts() == {}


def test_a_graph_without_its_envelope_is_told_what_is_expected(asking: TestClient) -> None:
    assert '{"prompt": ...}' in error_of(asking.post("/prompt", json=graphs.text_to_image()))["details"]
    assert '{"workflow": ...}' in asking.post("/api/v2/jobs", json=graphs.text_to_image()).json()["error"]["message"]


def test_a_prompt_may_have_no_words(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["6"]["inputs"]["text"] = ""
    submit(asking, graph)
    assert lease(made).job.work.request["prompt"] == ""


def test_what_the_request_refuses_is_told_of_its_node(made: Context, asking: TestClient) -> None:
    answer = asking.post("/prompt", json={"prompt": graphs.text_to_image(width=200)})  # a multiple of 8, not of 16
    assert error_of(answer)["type"] == "prompt_outputs_failed_validation"
    (error,) = answer.json()["node_errors"]["3"]["errors"]
    assert "multiple of 16" in error["details"] and error["extra_info"]["field"] == "request.width"
    many = graphs.text_to_image()
    many["5"]["inputs"]["batch_size"] = 64
    many["3"]["inputs"]["steps"] = 1000
    many["5"]["inputs"] |= {"width": 2048, "height": 2048}
    assert "megapixels" in error_of(asking.post("/prompt", json={"prompt": many}))["details"]
    assert error_of(asking.post("/prompt", content=b"{"))["type"] == "invalid_request"
    assert error_of(asking.post("/queue", json={"delete": "x"}))["details"] == "delete"


@pytest.mark.parametrize("change", [{"index": "x"}, {"then": 3}, {"prompt_id": "other"}, {"saves": {"9": {}}}, {}])
def test_what_other_surfaces_write_is_no_prompt(made: Context, asking: TestClient, change: dict[str, Any]) -> None:
    """The metadata of gesso's own API are its client's; they make nothing of this surface happen but what it checks."""
    prompt = submit(asking, graphs.text_to_image())
    about = made.store.get(lease(made).job.id).metadata["comfyui"]
    step = {"upscaler": "/etc/passwd", "values": {}, "samplers": [], "saves": {}, "index": 1}
    forged = {**about, "prompt_id": str(uuid.uuid4()), "jobs": 2, "then": [step], **change}
    batch = forged["prompt_id"] if change != {"prompt_id": "other"} else prompt
    body = {"request": {"prompt": "a car", "num_steps": 2}, "batch": batch, "metadata": {"comfyui": forged}}
    assert asking.post("/v1/jobs", json=body).status_code == 202
    finish(made, lease(made))
    assert asking.get("/history").json() == {}
    assert asking.get("/queue").status_code == asking.get("/api/jobs").status_code == 200
    assert made.store.counts() == {JobStatus.RUNNING: 1, JobStatus.SUCCEEDED: 1}


def test_a_prompt_id_is_one_prompt(made: Context, asking: TestClient) -> None:
    mine = str(uuid.uuid4())
    assert submit(asking, graphs.text_to_image(), prompt_id=mine) == mine
    assert submit(asking, graphs.text_to_image(), prompt_id=mine) == mine
    assert made.store.counts() == {JobStatus.QUEUED: 1}
    again = asking.post("/prompt", json={"prompt": graphs.text_to_image(seed=8), "prompt_id": mine})
    assert error_of(again, 422)["type"] == "idempotency_key_reuse"


def test_secrets_of_other_services_are_not_kept(made: Context, asking: TestClient) -> None:
    submit(asking, graphs.text_to_image(), extra_data={"api_key_comfy_org": "s3cret", "auth_token_comfy_org": "s3cret"})
    assert "s3cret" not in str(lease(made).job)


# ---- uploads ---------------------------------------------------------------------------------------------------------


def test_uploads_have_names(made: Context, asking: TestClient) -> None:
    assert upload(asking).json() == {"name": "cat.png", "subfolder": "", "type": "input"}
    assert upload(asking).json()["name"] == "cat.png"  # the same picture
    other = png(colour="red")
    assert upload(asking, other).json()["name"] == "cat (1).png"
    assert upload(asking, png(colour="blue"), overwrite="true").json()["name"] == "cat.png"
    assert upload(asking, other, subfolder="a/b", type="temp").json() == {
        "name": "cat.png",
        "subfolder": "a/b",
        "type": "temp",
    }
    view = asking.get("/view", params={"filename": "cat.png", "type": "input"})
    assert Image.open(io.BytesIO(view.content)).getpixel((0, 0)) == (0, 0, 255)
    temp = asking.get("/view", params={"filename": "cat.png", "type": "temp", "subfolder": "a/b", "channel": "rgb"})
    assert Image.open(io.BytesIO(temp.content)).getpixel((0, 0)) == (255, 0, 0)
    choices = asking.get("/object_info/LoadImage").json()["LoadImage"]["input"]["required"]["image"][0]
    assert choices == ["cat (1).png", "cat.png"]
    for name in ("cat.png", "cat.png [input]", "a/b/cat.png [temp]"):
        submit(asking, graphs.image_to_image(name))
    assert error_of(asking.post("/prompt", json={"prompt": graphs.image_to_image("dog.png")}))


def test_a_result_is_drawn_from(made: Context, asking: TestClient) -> None:
    prompt = submit(asking, graphs.text_to_image())
    finish(made, lease(made), png((128, 128)))
    (image,) = asking.get(f"/history/{prompt}").json()[prompt]["outputs"]["9"]["images"]
    submit(asking, graphs.image_to_image(f"{image['filename']} [output]"))
    job = lease(made).job
    assert made.store.get_upload(job.work.assets["image"]).width == 128


def test_a_mask_becomes_the_transparency_of_its_picture(asking: TestClient) -> None:
    upload(asking, png(colour="red"))
    mask = png(mode="RGBA", colour=(0, 0, 0, 40))
    answer = asking.post(
        "/upload/mask",
        files={"image": ("hole.png", mask, "image/png")},
        data={"original_ref": json.dumps({"filename": "cat.png", "type": "input"})},
    )
    assert answer.json()["name"] == "hole.png"
    view = asking.get("/view", params={"filename": "hole.png", "type": "input"})
    assert Image.open(io.BytesIO(view.content)).getpixel((5, 5)) == (255, 0, 0, 40)
    alone = asking.get("/view", params={"filename": "hole.png", "type": "input", "channel": "a"})
    assert Image.open(io.BytesIO(alone.content)).getpixel((5, 5)) == (0, 0, 0, 40)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("x.png", {"subfolder": "../up"}),
        ("x.png", {"subfolder": "a/../b"}),
        ("x.png", {"type": "models"}),
        ("x" * 200, {}),
        ("..", {}),
    ],
)
def test_names_lead_nowhere(made: Context, asking: TestClient, name: str, fields: dict[str, str]) -> None:
    assert error_of(upload(asking, None, name, **fields))["details"] in ("filename", "subfolder", "type")
    view = {"filename": name, **fields}
    assert asking.get("/view", params=view).status_code in (400, 404)


@pytest.mark.parametrize("prefix", ["../x", "/etc/../x", "a\\..\\x", "a\nb", "x" * 200])
def test_prefixes_lead_nowhere(made: Context, asking: TestClient, prefix: str) -> None:
    graph = graphs.text_to_image()
    graph["9"]["inputs"]["filename_prefix"] = prefix
    answer = asking.post("/prompt", json={"prompt": graph})
    assert error_of(answer)["type"] == "prompt_outputs_failed_validation"
    assert answer.json()["node_errors"]["9"]["errors"][0]["extra_info"] == {"input_name": "filename_prefix"}


def test_prefixes_may_say_size_and_year(made: Context, asking: TestClient) -> None:
    graph = graphs.text_to_image()
    graph["9"]["inputs"]["filename_prefix"] = "%year%/%width%x%height%"
    submit(asking, graph)
    assert lease(made).job.metadata["comfyui"]["saves"]["9"]["prefix"] == f"{time.localtime().tm_year}/128x128"


def test_what_is_no_picture_is_refused(asking: TestClient) -> None:
    assert error_of(upload(asking, b"GIF89a"), 415)["details"] == "image"
    assert error_of(asking.post("/upload/image", json={}), 415)
    assert error_of(asking.post("/upload/image", data={"a": "b"}, files={"other": ("x", b"")}))
    assert error_of(asking.get("/view", params={"filename": "x.png", "channel": "blue"}), 404)
    assert error_of(asking.get("/view"), 400)


# ---- whose it is -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Context]:
    """A server of its own, for keys."""
    with context(tmp_path) as opened:
        yield opened


def test_one_key_sees_nothing_of_another(own: Context) -> None:
    made = own
    (_, mine), (_, other) = made.keys.add("mine"), made.keys.add("other")
    with client(made, mine) as me, client(made, other) as them:
        upload(me)
        with (
            listening(me, "shared") as my_socket,
            listening(them, "shared") as their_socket,
        ):
            said(my_socket, "status"), said(their_socket, "status")
            prompt = submit(me, graphs.image_to_image("cat.png"), client_id="shared")
            assert them.get("/prompt").json()["exec_info"]["queue_remaining"] == 0
            assert them.get("/queue").json()["queue_pending"] == []
            assert them.post("/queue", json={"delete": [prompt], "clear": True}).status_code == 200
            held = lease(made)
            assert them.post("/interrupt").status_code == 200
            assert made.store.get(held.job.id).status == JobStatus.RUNNING
            finish(made, held)
            messages = said(my_socket, "executing", node=None)
            submit(them, graphs.text_to_image(), client_id="shared")
            theirs = said(their_socket, "status")
            assert prompt not in json.dumps(theirs) and len(theirs) == 1
        (image,) = next(one for one in messages if one["type"] == "executed")["data"]["output"]["images"]
        assert me.get("/view", params=image).status_code == 200
        for address in (f"/history/{prompt}", "/history"):
            assert prompt in me.get(address).json() and prompt not in them.get(address).json()
        assert error_of(them.get("/view", params=image), 404)
        assert error_of(them.get("/view", params={"filename": "cat.png", "type": "input"}), 404)
        assert error_of(them.get(f"/api/jobs/{prompt}"), 404)
        assert error_of(them.post("/prompt", json={"prompt": graphs.image_to_image("cat.png")}))
        assert them.get("/object_info/LoadImage").json()["LoadImage"]["input"]["required"]["image"][0] == []


def test_without_a_key_nothing_is_told(own: Context) -> None:
    made = own
    made.keys.add("mine")
    with client(made) as asking:
        for address in ("/history", "/queue", "/object_info", "/system_stats", "/view?filename=x.png", "/models"):
            assert error_of(asking.get(address), 401)["type"] == "unauthorized"
        assert error_of(asking.post("/prompt", json={}), 401)
        with pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)), listening(asking):
            pass
        assert asking.get("/").status_code == 200
    _, reader = made.keys.add("reader", ["read"])
    with client(made, reader) as asking:
        assert asking.get("/history").status_code == 200
        assert error_of(asking.post("/prompt", json={"prompt": graphs.text_to_image()}), 403)
        assert error_of(asking.post("/interrupt"), 403)


def test_a_socket_that_takes_nothing_is_given_up() -> None:
    socket = Socket("local", "me")
    for _ in range(200):
        socket.send(b"preview", lossy=True)
    assert socket.queue.qsize() < 100  # previews are dropped
    for _ in range(300):
        socket.send("message")
    assert socket.is_lost and socket.queue.get_nowait() is None


def test_there_are_so_many_sockets(tmp_path: Path) -> None:
    with context(tmp_path, max_streams=1) as made, client(made) as asking, listening(asking) as socket:
        said(socket, "status")
        with pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)), listening(asking):
            pass


def test_sockets_of_a_server_with_sockets(own: Context, caplog: pytest.LogCaptureFixture) -> None:
    """As they are on the wire: who is refused, and when a connection ends."""
    _, key = own.keys.add("mine")
    bearer = {"Authorization": f"Bearer {key}"}
    with server(own) as address:
        url = f"{address.replace('http', 'ws')}/ws?clientId=me"
        for headers, origin, status in (
            ({}, None, 401),
            (bearer, "http://elsewhere.example", 403),
            (bearer, "null", 403),
            ({**bearer, "Sec-Fetch-Site": "cross-site"}, None, 403),
        ):
            with pytest.raises(InvalidStatus) as refused:
                connect(url, additional_headers=headers, origin=origin)
            assert refused.value.response.status_code == status
        with connect(url, additional_headers=bearer) as large:
            large.recv()
            large.send("x" * (MAX_MESSAGE + 1))
            with pytest.raises(ConnectionClosed):
                large.recv(timeout=10)
            assert large.close_code == 1009
        with connect(url, additional_headers=bearer) as left:
            left.send("no JSON")
            left.send("[" * 50_000)
            left.send(b"bytes")
            left.send(json.dumps({"type": "feature_flags", "data": {}}))
            assert [json.loads(left.recv())["type"] for _ in range(2)] == ["status", "feature_flags"]
            own.is_stopping = True
            with pytest.raises(ConnectionClosed):
                left.recv(timeout=10)
            assert left.close_code == 1001
    assert "clientId" not in caplog.text and "handshake" not in caplog.text


# ---- what there is ---------------------------------------------------------------------------------------------------


def test_what_there_is_is_told(asking: TestClient) -> None:
    for prefix in ("", "/api"):
        assert asking.get(f"{prefix}/models/checkpoints").json() == ["gesso-mini.safetensors"]
        assert asking.get(f"{prefix}/models/loras").json() == [
            "comic.safetensors",
            "few-steps.safetensors",
            "woodcut.safetensors",
        ]
        assert asking.get(f"{prefix}/models/controlnet").json() == ["gesso-edges.safetensors"]
        assert asking.get(f"{prefix}/embeddings").json() == asking.get(f"{prefix}/extensions").json() == []
        assert "checkpoints" in asking.get(f"{prefix}/models").json()
        assert error_of(asking.get(f"{prefix}/models/hats"), 404)
        assert asking.get(f"{prefix}/features").json()["supports_preview_metadata"] is True
        assert asking.get(f"{prefix}/object_info/SomebodysNode").json() == {}
    stats = asking.get("/system_stats").json()
    assert stats["system"]["ram_total"] > 0 and stats["devices"][0]["type"] == "auto"
    info = asking.get("/object_info").json()
    assert info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == ["gesso-mini.safetensors"]
    assert info["UNETLoader"]["input"]["required"]["unet_name"][0] == ["gesso-mini.safetensors"]
    assert info["UpscaleModelLoader"]["input"]["required"]["model_name"][0] == []
    assert asking.post("/free", json={"unload_models": True}).content == b""
    assert error_of(asking.get("/ws"), 426)


# ---- Comfy's API v2 --------------------------------------------------------------------------------------------------


def test_v2_shows_the_same_prompt(made: Context, asking: TestClient) -> None:
    asset = asking.post(
        "/api/v2/assets",
        files={"file": ("cat.png", png((128, 128)), "image/png")},
        data={"content_type": "image/png", "file_path": "cat.png", "expected_hash": "blake3:00"},
    )
    assert asset.status_code == 201 and asset.json()["file_path"] == "cat.png"
    id = asset.json()["id"]
    assert asking.get(f"/api/v2/assets/{id}/content").content[:4] == b"\x89PNG"
    assert asking.head("/api/v2/assets/by-hash/blake3:00").status_code == 404
    graph = graphs.image_to_image("x")
    graph["10"]["inputs"]["image"] = {"__type": "core/ASSET", "info": {"id": id}}
    headers = {"Idempotency-Key": "k"}
    body = {"workflow": graph, "metadata": {"mine": 1}}
    answer = asking.post("/api/v2/jobs", json=body, headers=headers)
    job = answer.json()
    assert (answer.status_code, job["status"], job["metadata"]) == (201, "queued", {"mine": 1})
    assert asking.post("/api/v2/jobs", json=body, headers=headers).json()["id"] == job["id"]
    other = asking.post("/api/v2/jobs", json={"workflow": graphs.text_to_image()}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reuse")
    held = lease(made)
    assert held.job.work.assets == {"image": id}
    made.store.progress(held, {"value": 0.5, "step": 3, "steps": 6})
    now = asking.get(job["urls"]["self"]).json()
    assert (now["status"], now["progress"]["value"], now["progress"]["current_node_class"]) == (
        "running",
        0.5,
        "KSampler",
    )
    output = finish(made, held)
    events = asking.get(job["urls"]["events"]).text
    assert [line.removeprefix("event: ") for line in events.splitlines() if line.startswith("event")] == [
        "status",
        "progress",
        "output",
    ]
    now = asking.get(f"/api/v2/jobs/{job['id']}").json()
    assert now["status"] == "succeeded" and now["metrics"]["execution_ms"] is not None
    (picture,) = now["outputs"]
    assert (picture["id"], picture["node_id"], picture["type"]) == (output.id, "9", "image")
    assert asking.get(picture["url"]).content == PNG
    assert [one["id"] for one in asking.get("/api/v2/jobs", params={"status": "succeeded"}).json()["jobs"]] == [
        job["id"]
    ]
    assert job["id"] in asking.get("/history").json()
    assert asking.get(f"/api/v2/jobs/{job['id']}/workflow").json()["format"] == "api"
    assert asking.post(job["urls"]["cancel"]).json()["status"] == "succeeded"


@pytest.mark.parametrize(
    ("workflow", "status", "code"),
    [
        (3, 422, "invalid_workflow"),
        ({"nodes": [], "links": []}, 422, "workflow_format_ui"),
        ({"1": {"class_type": "X", "inputs": {}}}, 422, "invalid_workflow"),
        ({"1": {"class_type": "LoadImage", "inputs": {"image": {"__type": "core/ASSET"}}}}, 422, "missing_asset"),
    ],
)
def test_v2_refuses_in_its_own_shape(asking: TestClient, workflow: Any, status: int, code: str) -> None:
    answer = asking.post("/api/v2/jobs", json={"workflow": workflow})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code and answer.json()["error"]["message"]


def test_v2_says_what_is_not_there(asking: TestClient) -> None:
    for address in ("jobs/x", "jobs/x/workflow", "assets/x", "assets/x/content"):
        answer = asking.get(f"/api/v2/{address}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert asking.get("/api/v2/jobs", params={"status": "asleep"}).json()["error"]["code"] == "invalid_request"
    assert asking.get("/api/v2/jobs", params={"limit": "0"}).status_code == 400
    assert asking.get("/api/v2/health").json() == {"status": "ok"}


def test_times_are_those_of_the_job(made: Context, asking: TestClient) -> None:
    before = time.time() * 1000
    prompt = submit(asking, graphs.text_to_image())
    finish(made, lease(made))
    job = asking.get(f"/api/jobs/{prompt}").json()
    assert before - 1 <= job["create_time"] <= job["execution_start_time"] <= job["execution_end_time"]
