"""A day of requests in a short time: the memory of server and worker does not grow.

    GESSO_SOAK_MINUTES=60 pytest -s tests/serving/test_soak.py -m slow      as many requests as a day's, in an hour

A day is taken as 20,000 HTTP requests, one each four seconds. They are made as fast as four clients can within the
hour, and it ends with the last of them. Pictures by several surfaces, streams, lists, uploads, repeats, cancellations
and refusals; jobs are forgotten and swept meanwhile. The model is tiny so a picture takes milliseconds and what is
around it is what is left. In the first tenth there is a crowd of four times as many clients, so that the threads and
connections that a moment of high load takes are there from the beginning. Memory is compared between the end of the
first sixth, when everything has been used, and the end.
"""

import io
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import httpx
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
MINUTES = float(os.environ.get("GESSO_SOAK_MINUTES", "3"))
REQUESTS = round(20_000 * MINUTES / 60)
PACE = 20_000 / 3600  # turns a second at most; a turn is three requests
CLIENTS, CROWD = 4, 16
GROWTH = 0.02


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child_of(pid: int) -> int:
    found = [text for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()]
    return int(found[0])


def a_picture() -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


class Client(threading.Thread):
    """Asks for one thing after the other, at its times."""

    def __init__(self, address: str, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.chance, self.stop, self.count = random.Random(number), stop, 0
        self.requests = 0
        self.asking = httpx.Client(base_url=address, timeout=120, event_hooks={"request": [self._counted]})
        self.error: BaseException | None = None

    def _counted(self, request: httpx.Request) -> None:
        self.requests += 1

    def run(self) -> None:
        begin = time.monotonic()
        wishes = (self.draw, self.draw, self.stream, self.openai, self.upload, self.cancel, self.odd)
        try:
            while not self.stop.wait(max(0.0, begin + self.count * CLIENTS / PACE - time.monotonic())):
                self.chance.choice(wishes)()
                self.count += 1
        except BaseException as error:
            self.error = error
        finally:
            self.asking.close()

    def body(self) -> dict[str, object]:
        words = self.chance.choice(("a red cat", "a blue turtle", "two cats"))
        steps, seed = self.chance.randint(1, 4), self.chance.getrandbits(31)
        return {"request": {"prompt": words, "num_steps": steps, "seed": seed}, "metadata": {"n": self.count}}

    def draw(self) -> None:
        headers = {"Prefer": "wait=100", "Idempotency-Key": f"{self.name} {self.count}"}
        body = self.body()
        job = self.asking.post("/v1/jobs", json=body, headers=headers).json()
        assert job["status"] == "succeeded", job
        assert self.asking.post("/v1/jobs", json=body, headers=headers).status_code == 200
        assert self.asking.get(job["outputs"][0]["url"]).content.startswith(b"\x89PNG")
        assert self.asking.get(job["outputs"][0]["metadata_url"]).status_code == 200

    def stream(self) -> None:
        job = self.asking.post("/v1/jobs", json=self.body()).json()
        with self.asking.stream("GET", job["urls"]["events"]) as events:
            assert "succeeded" in "".join(events.iter_text())
        assert self.asking.get("/v1/jobs?limit=20").status_code == 200

    def openai(self) -> None:
        answer = self.asking.post("/v1/images/generations", json={"prompt": "a red cat", "size": "256x256"})
        assert answer.status_code == 200 and answer.json()["data"][0]["b64_json"], answer.text

    def upload(self) -> None:
        sent = self.asking.post("/v1/assets", files={"file": ("a.png", a_picture(), "image/png")})
        assert sent.status_code in (200, 201)
        assert self.asking.get(f"/v1/assets/{sent.json()['id']}").status_code == 200
        assert self.asking.get("/v1/models").status_code == 200

    def cancel(self) -> None:
        job = self.asking.post("/v1/jobs", json=self.body()).json()
        assert self.asking.post(job["urls"]["cancel"]).status_code == 200

    def odd(self) -> None:
        assert self.asking.post("/v1/jobs", json={"request": {"prompt": "a", "widht": 1}}).status_code == 400
        assert (
            self.asking.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
        )
        assert self.asking.get("/v1/jobs/nothing").status_code == 404
        assert self.asking.get("/metrics").status_code == 200


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), str(ROOT)])
    settings = {"rate": 10**6, "keep": 60.0, "previews": 0.1}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "serving.tiny_server", str(tmp_path), json.dumps(settings)],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert server.stdout is not None
    stop, leave, seen = threading.Event(), threading.Event(), list[tuple[float, int, int]]()
    try:
        address = server.stdout.readline().strip()
        clients = [Client(address, number, stop if number < CLIENTS else leave) for number in range(CROWD)]
        for client in clients:
            client.start()
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < 60 * MINUTES and all(one.is_alive() for one in clients[:CLIENTS]):
            if (made := sum(client.requests for client in clients)) >= REQUESTS:
                break
            if made >= REQUESTS / 10:
                leave.set()
            stop.wait(1.0)
            if now > 5:
                seen.append((now, resident(server.pid), resident(child_of(server.pid))))
    finally:
        leave.set()
        stop.set()
        for client in clients:
            client.join(120)
        server.terminate()
        server.wait(60)
        server.stdout.close()
    assert not [client.error for client in clients if client.error is not None]
    turns, requests = (sum(counts) for counts in zip(*((one.count, one.requests) for one in clients), strict=True))
    seconds = seen[-1][0]

    def used(which: int, low: float, high: float) -> float:
        return median(row[which] for row in seen if low <= row[0] / seconds <= high)

    used_by = {name: (used(which, 0.15, 0.2), used(which, 0.95, 1.0)) for name, which in (("server", 1), ("worker", 2))}
    growth = {name: late / early - 1 for name, (early, late) in used_by.items()}
    course = [[round(used(which, at / 10, (at + 1) / 10) / 2**20, 1) for at in range(1, 10)] for which in (1, 2)]
    told = {"minutes": MINUTES, "turns": turns, "requests": requests, "seconds": round(seconds)}
    print(json.dumps(told | {"bytes": used_by, "growth": growth, "MiB": course}))
    assert requests >= REQUESTS, "the machine is too slow to say anything"
    assert all(share < GROWTH for share in growth.values()), growth
