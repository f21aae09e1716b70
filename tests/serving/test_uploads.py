"""Pictures that strangers send, by every way there is: what is too large or no picture is refused, and nothing kept."""

import base64
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import func, select

from gesso.api.context import Context
from gesso.serving.tables import jobs, uploads
from serving.served import client, context

LIMIT = 64 * 1024  # bytes of an upload, here


def a_picture() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def form(path: str, part: str, **fields: str) -> Callable[[TestClient, bytes], httpx.Response]:
    return lambda asking, data: asking.post(path, files={part: ("a.png", data, "image/png")}, data=fields)


def in_json(path: str, body: Callable[[str], dict[str, Any]]) -> Callable[[TestClient, bytes], httpx.Response]:
    return lambda asking, data: asking.post(path, json=body(base64.b64encode(data).decode()))


WAYS = {
    "assets": form("/v1/assets", "file"),
    "metadata": form("/v1/metadata", "file"),
    "openai edits": form("/v1/images/edits", "image", prompt="a red car"),
    "openai variations": form("/v1/images/variations", "image"),
    "a1111 img2img": in_json("/sdapi/v1/img2img", lambda text: {"prompt": "a red car", "init_images": [text]}),
    "a1111 extras": in_json("/sdapi/v1/extra-single-image", lambda text: {"image": text, "upscaling_resize": 2}),
    "a1111 png-info": in_json("/sdapi/v1/png-info", lambda text: {"image": f"data:image/png;base64,{text}"}),
    "controlnet detect": in_json(
        "/controlnet/detect", lambda text: {"controlnet_module": "canny", "controlnet_input_images": [text]}
    ),
    "comfy image": form("/upload/image", "image"),
    "comfy image, api": form("/api/upload/image", "image", type="input"),
    "comfy mask": form("/upload/mask", "image", original_ref='{"filename":"a.png","type":"input"}'),
    "comfy v2": form("/api/v2/assets", "file"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with context(tmp_path_factory.mktemp("server"), max_upload=LIMIT) as made:
        yield made


@pytest.fixture(scope="module")
def asking(made: Context) -> Iterator[TestClient]:
    with client(made) as asking:
        yield asking


def kept(made: Context) -> tuple[int, int, int]:
    """How many uploads, jobs and files there are."""
    with made.store.database.reading() as connection:
        rows = [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (uploads, jobs)]
    files = sum(path.is_file() for path in Path(made.blobs.root).rglob("*"))
    return rows[0], rows[1], files


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"\x89PNG\r\n\x1a\n" + b"\0" * (2 * LIMIT), (413,)),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, (400, 415, 422)),
        (a_picture()[:-200], (400, 415, 422)),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (400, 415, 422)),
        (b"", (400, 415, 422)),
    ],
    ids=["too large", "torn", "cut off", "of another kind", "empty"],
)
def test_what_is_too_large_or_no_picture_is_refused_by_every_way(
    made: Context, asking: TestClient, way: str, data: bytes, statuses: tuple[int, ...]
) -> None:
    before = kept(made)
    answer = WAYS[way](asking, data)
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert "Traceback" not in answer.text and str(made.settings.folder) not in answer.text
    assert kept(made) == before


@pytest.mark.parametrize("path", ["/v1/assets", "/v1/metadata", "/v1/images/edits", "/upload/image", "/api/v2/assets"])
@pytest.mark.parametrize(
    ("kind", "body", "statuses"),
    [
        ("multipart/form-data", b"--x\r\n", (400,)),
        ("multipart/form-data; boundary=" + "x" * 80, b"--x\r\n", (400,)),
        ("multipart/form-data; boundary=x", b"no form at all", (400,)),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n",
            (400,),
        ),
        ("text/plain", b"a picture", (400, 415)),
    ],
    ids=["no boundary", "long boundary", "no form", "no name", "of another kind"],
)
def test_what_is_no_form_is_refused(
    made: Context, asking: TestClient, path: str, kind: str, body: bytes, statuses: tuple[int, ...]
) -> None:
    before = kept(made)
    answer = asking.post(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert kept(made) == before


# Pillow has its pictures in pieces of 16 MiB: the first that is freed tells glibc to take the next ones from where what
# stays lies above them.
GIVING_BACK = """
import sys
from pathlib import Path
from PIL import Image

def resident():  # MiB
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

if sys.argv[1] == "server":
    from gesso.server.run import give_memory_back
    give_memory_back()
Image.new("RGB", (2048, 2048))
before = resident()
picture = Image.new("RGB", (8000, 8000))
stays = [bytes(3000) for _ in range(1000)]
del picture
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is that of glibc")
@pytest.mark.slow
def test_what_a_large_picture_took_goes_back() -> None:
    def left(kind: str) -> float:
        words = [sys.executable, "-c", GIVING_BACK, kind]
        return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    if left("plain") < 100:
        pytest.skip("this allocator gives memory back by itself")
    assert left("server") < 20
