"""Draws the six graphs with one of ComfyUI's clients, as it comes from its package, against a server.

    python comfy_clients.py CLIENT ADDRESS FOLDER

FOLDER has graphs.json (name -> graph), edges.png and hole.png, under which names the graphs call them; each picture
becomes NAME.png there.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUTPUT = "9"
TIMEOUT = 120


def simplified(address: str, folder: Path) -> None:
    """comfy-api-simplified."""
    from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

    api = ComfyApiWrapper(address)
    for name, graph in _graphs(folder).items():
        workflow = ComfyWorkflowWrapper(graph)
        for file in ("edges.png", "hole.png"):
            if "10" in graph and graph["10"]["inputs"]["image"] == file:
                kept = api.upload_image(folder / file)
                workflow.set_node_param("LoadImage", "image", f"{kept['subfolder']}/{kept['name']}")
        (picture,) = api.queue_and_wait_images(workflow, "Save Image").values()
        _keep(folder, name, picture)
    assert api.get_queue() == {"queue_running": [], "queue_pending": []}


def xy(address: str, folder: Path) -> None:
    """comfyui-xy."""
    from comfyui_xy.client import ComfyUiClient

    with ComfyUiClient(address, raise_on_error=True, execution_timeout=TIMEOUT) as client:
        for file in ("edges.png", "hole.png"):
            assert client.upload_image(str(folder / file)) == file
        for name, graph in _graphs(folder).items():
            (answer,) = client.process_workflow(graph)
            assert answer.file_type == "image" and answer.image is not None
            _keep(folder, name, answer.data)
        assert client.get_object_info("KSampler")


def kit(address: str, folder: Path, kind: str) -> None:
    """comfykit, which uploads by itself where a node's title asks for it."""
    from comfykit import ComfyKit

    async def work() -> None:
        made = ComfyKit(comfyui_url=address, executor_type=kind)
        for name, graph in _graphs(folder).items():
            given = {}
            if "10" in graph:
                graph["10"]["_meta"] = {"title": "Load Image, $~image!"}
                given = {"image": str(folder / graph["10"]["inputs"]["image"])}
            answer = await made.execute_json(graph, given)
            assert answer.status == "completed", answer.msg
            (url,) = answer.images
            _keep(folder, name, _bytes(url))

    asyncio.run(work())


def sdk(address: str, folder: Path) -> None:
    """comfy-sdk, the official one, on the server's own /api/v2."""
    os.environ["COMFY_BASE_URL"] = address
    from comfy_sdk import Comfy, InvalidWorkflow, OutputReady, Progress, StatusChange

    client = Comfy()
    assets = {file: client.assets.from_file(folder / file) for file in ("edges.png", "hole.png")}
    for name, graph in _graphs(folder).items():
        workflow = client.workflows.from_json(graph)
        if "10" in graph:
            workflow.set_input("10", "image", assets[graph["10"]["inputs"]["image"]])
        job = client.submit(workflow)
        seen = list(job.events())
        assert any(isinstance(one, Progress) for one in seen), seen
        assert any(isinstance(one, OutputReady) for one in seen), seen
        assert isinstance(seen[-1], StatusChange) and seen[-1].status == "succeeded", seen
        (output,) = client.run(workflow).get_outputs(OUTPUT)
        _keep(folder, name, output.to_bytes())
    graph["3"]["class_type"] = "FluxGuidance"
    why = ""
    try:
        client.run(client.workflows.from_json(graph))
    except InvalidWorkflow as error:
        why = str(error)
    assert "only Flux models read" in why, why or "a graph with FluxGuidance was drawn"


def proxy(address: str, folder: Path) -> None:
    """comfy-sdk through comfy-api-proxy, the official way to a ComfyUI of one's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "comfy_api_proxy.cli", "run", "--comfyui", address, "--port", str(port)]
    with _running(words):
        _wait(f"http://127.0.0.1:{port}/api/v2/health")
        sdk(f"http://127.0.0.1:{port}", folder)


CLIENTS: dict[str, Callable[[str, Path], None]] = {
    "comfy-api-simplified": simplified,
    "comfyui-xy": xy,
    "comfykit-http": lambda address, folder: kit(address, folder, "http"),
    "comfykit-websocket": lambda address, folder: kit(address, folder, "websocket"),
    "comfy-sdk": sdk,
    "comfy-api-proxy": proxy,
}


def _graphs(folder: Path) -> dict[str, Any]:
    graphs: dict[str, Any] = json.loads((folder / "graphs.json").read_text())
    return graphs


def _keep(folder: Path, name: str, data: bytes) -> None:
    (folder / f"{name}.png").write_bytes(data)


def _bytes(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        data: bytes = answer.read()
    return data


@contextmanager
def _running(words: list[str]) -> Iterator[None]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str) -> None:
    for _ in range(100):
        try:
            _bytes(url)
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"nothing answers at {url}")


if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
