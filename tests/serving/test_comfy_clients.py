"""ComfyUI's real clients, unmodified, draw with the built-in model: each the same six pictures, bit for bit."""

import base64
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from serving import comfy_graphs as graphs
from serving.comfy_clients import CLIENTS
from serving.drawing_server import drawing_server, run_page
from upscaler_files import upscaler_weights

MODULES = os.environ.get("GESSO_NODE_MODULES", "")  # a folder node_modules with the npm packages
SILLYTAVERN = os.environ.get("GESSO_SILLYTAVERN", "")  # the folder of the npm package, installed with what it needs
PACKAGES = {
    "comfy-api-simplified": "comfy_api_simplified",
    "comfyui-xy": "comfyui_xy",
    "comfykit-http": "comfykit",
    "comfykit-websocket": "comfykit",
    "comfy-sdk": "comfy_sdk",
    "comfy-api-proxy": "comfy_api_proxy",
}
NPM = ("@saintno/comfyui-sdk", "@stable-canvas/comfyui-client")
GRAPHS = {
    "text_to_image": graphs.text_to_image(),
    "image_to_image": graphs.image_to_image("edges.png"),
    "inpaint": graphs.inpaint("hole.png"),
    "lora": graphs.lora(),
    "controlnet": graphs.controlnet("edges.png"),
    "upscale": graphs.upscale(),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose library has an upscaler network of small hashed weights."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "models" / "upscale_models"
    folder.mkdir(parents=True)
    save_file(upscaler_weights("compact_x2"), folder / "double.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GESSO_HOME", str(home))
        with drawing_server(tmp_path_factory.mktemp("server")) as (url, _):
            yield url


@pytest.fixture(scope="module")
def drawn(address: str) -> dict[str, bytes]:
    """The pictures of the graphs, as plain HTTP gives them."""
    with httpx.Client(base_url=address, timeout=60) as asking:
        for name, image in inputs().items():
            data = io.BytesIO()
            image.save(data, "PNG")
            answer = asking.post("/upload/image", files={"image": (name, data.getvalue())})
            assert answer.json()["name"] == name
        return {name: plainly(asking, graph) for name, graph in GRAPHS.items()}


def plainly(asking: httpx.Client, graph: graphs.Graph) -> bytes:
    prompt = asking.post("/prompt", json={"prompt": graph}).json()["prompt_id"]
    for _ in range(600):
        if history := asking.get(f"/history/{prompt}").json():
            (image,) = history[prompt]["outputs"]["9"]["images"]
            return asking.get("/view", params=image).content
        time.sleep(0.1)
    raise AssertionError("it is not drawn in a minute")


def inputs() -> dict[str, Image.Image]:
    edges = Image.new("RGB", (128, 128))
    draw = ImageDraw.Draw(edges)
    draw.ellipse((30, 30, 100, 100), outline="white")
    draw.line((0, 100, 127, 100), fill="white")
    hole = Image.new("RGBA", (128, 128), (60, 160, 80, 255))
    ImageDraw.Draw(hole).rectangle((40, 40, 90, 90), fill=(60, 160, 80, 0))
    return {"edges.png": edges, "hole.png": hole}


def folder_of(path: Path) -> Path:
    (path / "graphs.json").write_text(json.dumps(GRAPHS))
    for name, image in inputs().items():
        image.save(path / name)
    return path


def check(folder: Path, drawn: dict[str, bytes]) -> None:
    """Each picture is that of plain HTTP."""
    for name, wanted in drawn.items():
        assert (folder / f"{name}.png").read_bytes() == wanted, name


def test_the_pictures_are_what_was_asked_for(drawn: dict[str, bytes]) -> None:
    """What can be told without eyes: sizes, what was kept, and that every graph gives a picture of its own."""
    levels = {name: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for name, data in drawn.items()}
    assert {name: one.shape[:2] for name, one in levels.items()} == dict.fromkeys(GRAPHS, (128, 128)) | {
        "upscale": (256, 256)
    }
    assert all(one.std() > 10 for one in levels.values())
    red = levels["text_to_image"][32:96, 32:96].reshape(-1, 3).mean(0)
    assert red[0] > red[1] + 20 and red[0] > red[2] + 20  # a red car
    outside = np.ones((128, 128), bool)
    outside[32:100, 32:100] = False
    kept = np.abs(levels["inpaint"] - np.array([60, 160, 80]))
    assert np.median(kept[outside]) < 12 < np.median(kept[44:86, 44:86])
    small = [levels[name] for name in GRAPHS if name != "upscale"]
    for number, one in enumerate(small):
        assert all(np.abs(one - other).mean() > 2 for other in small[:number])


def test_the_example_of_the_page(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("comfy_api_simplified", reason="the package comfy-api-simplified is not installed")
    monkeypatch.chdir(tmp_path)
    run_page("serving-comfy.md", address)
    with Image.open("car.png") as car:
        assert car.size == (256, 256)


def test_pictures_are_enlarged_by_a_network(address: str, drawn: dict[str, bytes]) -> None:
    """An uploaded one, and one that the graph draws, which is the same as saving it and enlarging that."""
    graph: graphs.Graph = {
        "1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "double.safetensors"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "drawn.png"}},
        "3": {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["1", 0], "image": ["2", 0]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "large"}},
    }
    with httpx.Client(base_url=address, timeout=60) as asking:
        assert asking.get("/models/upscale_models").json() == ["double.safetensors"]
        asking.post("/upload/image", files={"image": ("drawn.png", drawn["text_to_image"])})
        alone = Image.open(io.BytesIO(plainly(asking, graph)))
        both = graphs.text_to_image()
        both["20"] = graph["1"]
        both["21"] = {"class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["20", 0], "image": ["8", 0]}}
        both["9"]["inputs"]["images"] = ["21", 0]
        together = Image.open(io.BytesIO(plainly(asking, both)))
        both["22"] = {
            "class_type": "ImageScale",
            "inputs": {
                "image": ["21", 0],
                "upscale_method": "lanczos",
                "width": 192,
                "height": 192,
                "crop": "disabled",
            },
        }
        both["9"]["inputs"]["images"] = ["22", 0]
        sized = Image.open(io.BytesIO(plainly(asking, both)))
    assert alone.size == together.size == (256, 256) and sized.size == (192, 192)
    assert alone.convert("RGB").tobytes() == together.convert("RGB").tobytes()
    assert np.asarray(alone.convert("RGB")).std() > 10


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_from_pypi(client: str, address: str, drawn: dict[str, bytes], tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[client]) is None:
        pytest.skip(f"the package {PACKAGES[client]} is not installed")
    script = Path(__file__).with_name("comfy_clients.py")
    _run([sys.executable, str(script), client, address, str(folder_of(tmp_path))])
    check(tmp_path, drawn)


@pytest.mark.skipif(not MODULES, reason="GESSO_NODE_MODULES names no folder with the npm packages")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("client", NPM)
def test_clients_from_npm(client: str, address: str, drawn: dict[str, bytes], tmp_path: Path) -> None:
    if not (Path(MODULES) / client).is_dir():
        pytest.skip(f"the npm package {client} is not in {MODULES}")
    script = Path(__file__).with_name("comfy_clients.mjs")
    _run(["node", str(script), client, address, str(folder_of(tmp_path)), MODULES])
    check(tmp_path, drawn)


@pytest.mark.skipif(not SILLYTAVERN, reason="GESSO_SILLYTAVERN does not name the folder of the npm package sillytavern")
@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_sillytaverns_own_router(address: str, drawn: dict[str, bytes]) -> None:
    words = ("node", str(Path(__file__).with_name("sillytavern.mjs")), SILLYTAVERN)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/sd/comfy", timeout=60) as asking:
                _ask_as_sillytavern(asking, address, drawn)
        finally:
            process.kill()


def _ask_as_sillytavern(asking: httpx.Client, address: str, drawn: dict[str, bytes]) -> None:
    assert asking.post("/ping", json={"url": address}).status_code == 200
    models = asking.post("/models", json={"url": address}).json()
    assert "gesso-mini.safetensors" in [one["value"] for one in models]
    assert "dpmpp_2m" in asking.post("/samplers", json={"url": address}).json()
    assert "karras" in asking.post("/schedulers", json={"url": address}).json()
    assert asking.post("/vaes", json={"url": address}).json() == ["gesso-mini.safetensors"]
    for name, graph in GRAPHS.items():
        answer = asking.post("/generate", json={"url": address, "prompt": json.dumps({"prompt": graph})})
        assert answer.json()["format"] == "png"
        assert base64.b64decode(answer.json()["data"]) == drawn[name], name
    refused = asking.post("/generate", json={"url": address, "prompt": json.dumps({"prompt": {}})})
    assert (refused.status_code, refused.text) == (500, "ComfyUI returned an error.")


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
