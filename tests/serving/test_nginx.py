"""deploy/nginx.conf: the real nginx, with TLS, before a real server."""

import asyncio
import json
import logging
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gesso.api.context import Context
from serving.drawing_server import working
from serving.objects import free_port
from serving.served import CAR, PNG, context, finish, lease, problem, server

CONF = Path(__file__).parents[2] / "deploy" / "nginx.conf"
NAME = "draw.example.org"


@dataclass(frozen=True)
class Front:
    """A running nginx.  port: of TLS; plain: without"""

    made: Context
    port: int
    plain: int
    trust: ssl.SSLContext

    @contextmanager
    def client(self, source: str = "127.0.0.1") -> Iterator[httpx.Client]:
        """Someone who calls from this address, and knows the server by its name."""
        transport = httpx.HTTPTransport(verify=self.trust, local_address=source)
        with httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            transport=transport,
            headers={"Host": NAME},
            timeout=30,
        ) as asking:
            asking.event_hooks["request"] = [self._named]
            yield asking

    @staticmethod
    def _named(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = NAME


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    folder = tmp_path_factory.mktemp("nginx")
    authority = trustme.CA()
    issued = authority.issue_cert(NAME)
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for part in issued.cert_chain_pems:
        part.write_to_path(folder / "chain.pem", append=True)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    settings = {"allowed_hosts": (NAME,), "trusted_proxies": ("127.0.0.1",), "threads": 1, "device": "cpu"}
    with ExitStack() as stack:
        made = stack.enter_context(context(tmp_path_factory.mktemp("home"), **settings))
        address = stack.enter_context(server(made))
        port, plain = free_port(), free_port()
        site = CONF.read_text(encoding="utf-8")
        for old, new in {
            "127.0.0.1:7860": address.removeprefix("http://"),
            "/etc/ssl/gesso/fullchain.pem": f"{folder}/chain.pem",
            "/etc/ssl/gesso/privkey.pem": f"{folder}/key.pem",
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "listen [::]:80;": "",
            "listen [::]:443 ssl http2;": "",
        }.items():
            assert old in site, old
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site, encoding="utf-8")
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"{user} pid {folder}/pid; daemon off; worker_processes 1; events {{ worker_connections 512; }}"
            f"http {{ access_log off; {temporary} include {folder}/site.conf; }}",
            encoding="utf-8",
        )
        words = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
        checked = subprocess.run([*words, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0 and "[warn]" not in checked.stderr, checked.stderr
        running = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        stack.callback(running.wait, 20)
        stack.callback(running.terminate)
        made_front = Front(made, port, plain, trust)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                httpx.get(f"http://127.0.0.1:{plain}")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield made_front


def test_plain_http_leads_to_tls(front: Front) -> None:
    answer = httpx.post(f"http://127.0.0.1:{front.plain}/v1/jobs?a=b", headers={"Host": NAME})
    assert (answer.status_code, answer.headers["location"]) == (308, f"https://{NAME}/v1/jobs?a=b")


def test_tls_is_of_today(front: Front) -> None:
    with front.client() as asking:
        answer = asking.get("/healthz")
        assert answer.json() == {"status": "ok"} and "max-age" in answer.headers["strict-transport-security"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]  # gesso's own are passed on
        assert asking.get("/metrics").status_code == 404, "numbers are not for the world"
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://127.0.0.1:{front.port}/healthz", verify=old)


def test_names_that_the_server_does_not_have(front: Front) -> None:
    with front.client() as asking:
        problem(asking.get("/healthz", headers={"Host": "evil.example"}), 421, "unknown_host")
        assert asking.get("/healthz", headers={"Origin": "https://evil.example"}).status_code == 403
        assert asking.get("/healthz", headers={"Origin": f"https://{NAME}"}).status_code == 200


def test_the_client_is_known_by_its_own_address(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gesso")
    with front.client("127.0.0.7") as asking:
        told = {"X-Forwarded-For": "9.9.9.9, 127.0.0.1", "X-Request-Id": "spoof"}
        assert asking.get("/healthz", headers=told).headers["x-request-id"] == "spoof"
    clients: set[str] = set()
    end = time.monotonic() + 20  # the line is written when the answer has gone
    while not clients and time.monotonic() < end:
        time.sleep(0.01)
        clients = {record.client for record in list(caplog.records) if getattr(record, "request_id", "") == "spoof"}
    assert clients == {"127.0.0.7"}


def test_uploads_up_to_the_bound(front: Front) -> None:
    with front.client() as asking:
        assert asking.post("/v1/assets", files={"file": ("a.png", PNG)}).status_code == 201
        big = os.urandom(20 * 2**20)  # passes nginx, and is no picture
        problem(asking.post("/v1/assets", files={"file": ("a.png", big)}), 415, "unsupported_media_type")
        limit = front.made.settings.max_upload
        problem(asking.post("/v1/assets", files={"file": ("a.png", b"\0" * (limit + 20_000))}), 413, "too_large")
        large = CAR | {"metadata": {"large": "x" * 10 * 2**20}}
        problem(asking.post("/v1/jobs", json=large), 413, "too_large")
        answer = asking.post("/v1/assets", files={"file": ("a.png", b"\0" * (34 * 2**20))})
        assert answer.status_code == 413 and "nginx" in answer.text
        assert int(re.findall(r"client_max_body_size +(\d+)m", CONF.read_text())[0]) * 2**20 > limit + 16 * 1024


def test_events_come_as_they_happen(front: Front) -> None:
    with front.client() as asking, front.client() as watching:
        job = asking.post("/v1/jobs", json=CAR).json()
        held = lease(front.made)
        assert held.job.id == job["id"]
        with watching.stream("GET", job["urls"]["events"]) as events:
            lines = events.iter_lines()
            for step in range(1, 4):
                begin = time.monotonic()
                front.made.store.progress(held, {"value": step / 8, "step": step, "steps": 8})
                while True:
                    line = next(lines)
                    if line.startswith("data:") and json.loads(line[5:]).get("step") == step:
                        break
                assert time.monotonic() - begin < 5, "the proxy held the event back"
            finish(front.made, held)
            assert any('"succeeded"' in line for line in lines)


def test_the_socket_of_comfyui(front: Front) -> None:
    from websockets.asyncio.client import connect

    async def listen() -> str:
        address = f"wss://{NAME}:{front.port}/ws?clientId=a"
        async with connect(address, host="127.0.0.1", ssl=front.trust, server_hostname=NAME) as socket:
            async with asyncio.timeout(20):
                return str(await socket.recv())

    told = json.loads(asyncio.run(listen()))
    assert told["type"] == "status" and told["data"]["sid"] == "a"


@pytest.mark.slow
def test_a_picture_from_end_to_end_with_links_to_https(front: Front) -> None:
    with working(front.made), front.client() as asking:
        body = {
            "model": "gesso-mini",
            "prompt": "a red car",
            "size": "256x256",
            "response_format": "url",
            "quality": "low",
        }
        answer = asking.post("/v1/images/generations", json=body)
        assert answer.status_code == 200, answer.text
        link = answer.json()["data"][0]["url"]
        assert link.startswith(f"https://{NAME}/v1/images/")
        picture = asking.get(link.removeprefix(f"https://{NAME}"))
        assert picture.status_code == 200 and picture.content.startswith(b"\x89PNG")


def test_one_address_has_so_many_connections(front: Front) -> None:
    """More than that many streams at once, and the rest is refused; others are served meanwhile."""
    with front.client() as asking:
        job = asking.post("/v1/jobs", json=CAR).json()

    async def statuses() -> list[int]:
        async with (
            httpx.AsyncClient(
                verify=front.trust, headers={"Host": NAME}, timeout=30, limits=httpx.Limits(max_connections=None)
            ) as many,
            asyncio.TaskGroup() as group,
        ):
            done = asyncio.Event()

            async def watch() -> int:
                request = many.build_request(
                    "GET",
                    f"https://127.0.0.1:{front.port}{job['urls']['events']}",
                    extensions={"sni_hostname": NAME},
                )
                answer = await many.send(request, stream=True)
                if answer.status_code == 200:
                    await done.wait()
                await answer.aclose()
                return answer.status_code

            watching = [group.create_task(watch()) for _ in range(80)]
            while sum(task.done() for task in watching) < 16:
                await asyncio.sleep(0.05)

            def from_elsewhere() -> int:
                with front.client("127.0.0.8") as other:
                    return other.get("/healthz").status_code

            assert await asyncio.to_thread(from_elsewhere) == 200
            done.set()
        return [task.result() for task in watching]

    found = asyncio.run(asyncio.wait_for(statuses(), 60))
    assert sorted(found) == [200] * 64 + [429] * 16
    with front.client() as asking:
        asking.post(f"{job['urls']['self']}/cancel")
