"""What strangers, pages of other sites and broken clients try: on the wire where that matters."""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gesso.api.addresses import Address, check_address, is_public, resolve
from gesso.api.context import Context
from gesso.api.guard import SECURITY_HEADERS
from gesso.api.signing import signature
from gesso.api.webhooks import PAUSES, Webhooks
from gesso.api.webhooks import post as send
from gesso.errors import GessoError
from gesso.serving.jobs import JobStatus
from gesso.serving.logs import LogLines
from serving.served import CAR, client, context, drawn, finish, lease, problem, server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with context(
        tmp_path_factory.mktemp("security"),
        rate=10**6,
        allowed_hosts=("draw.example",),
        header_timeout=0.6,
        body_timeout=0.6,
        max_body=4096,
        trusted_proxies=("10.0.0.0/8",),
    ) as opened:
        yield opened
        assert opened.store.counts() == {}, "something was queued that had to be refused"


@pytest.fixture(scope="module")
def asking(made: Context) -> Iterator[TestClient]:
    with client(made) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(made: Context) -> Iterator[tuple[str, int]]:
    """Of a server with sockets."""
    with server(made) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@contextmanager
def talking(address: tuple[str, int]) -> Iterator[socket.socket]:
    with closing(socket.create_connection(address, 5)) as wire:
        yield wire


def said(wire: socket.socket, wait: float = 5) -> bytes:
    """Everything that comes until the other end hangs up, or nothing more comes."""
    wire.settimeout(wait)
    got = b""
    try:
        while part := wire.recv(65536):
            got += part
    except (TimeoutError, ConnectionResetError):
        pass
    return got


def told(address: tuple[str, int], data: bytes) -> bytes:
    with talking(address) as wire:
        wire.sendall(data)
        return said(wire)


def post(body: bytes = json.dumps(CAR).encode(), *more: str, host: str = "localhost") -> bytes:
    head = [
        "POST /v1/jobs HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


# ---- A10, A11: pages of other sites ----------------------------------------------------------------------------------

HOSTS = ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0.0.0.0", "[::2]", "gesso"]
MALFORMED = ["x/health?", "a@127.0.0.1", "127.0.0.1#", "127.0.0.1\\x", "", "a b", "127.0.0.1:x", "localhost, localhost"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
def test_a_name_that_is_not_ours_is_refused(made: Context, asking: TestClient, method: str) -> None:
    """DNS rebinding: a page's own name leads here, for every method."""
    for host in HOSTS:
        answer = asking.request(method, "/v1/jobs", headers={"Host": host})
        assert answer.status_code == 421, (host, answer.text)
    for host in MALFORMED:
        assert asking.request(method, "/v1/jobs", headers={"Host": host}).status_code == 400, host
    for host in ("localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860", "draw.example", "Draw.Example:443"):
        assert asking.request("GET", "/v1/jobs", headers={"Host": host}).status_code == 200, host


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:7861"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "something new"},
    ],
    ids=str,
)
def test_pages_of_other_sites_change_nothing(
    made: Context, asking: TestClient, headers: dict[str, str], kind: str
) -> None:
    for path in ("/v1/jobs", "/v1/assets", "/v1/jobs/x/cancel"):
        answer = asking.post(path, content=json.dumps(CAR), headers={**headers, "Content-Type": kind})
        problem(answer, 403, "cross_site")
    problem(asking.delete("/v1/jobs/x", headers=headers), 403, "cross_site")


def test_pages_of_other_sites_show_nothing(asking: TestClient) -> None:
    problem(
        asking.get("/v1/jobs", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}), 403, "cross_site"
    )
    problem(asking.get("/v1/jobs", headers={"Origin": "https://evil.example"}), 403, "cross_site")
    preflight = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Private-Network": "true",
    }
    answer = asking.options("/v1/jobs", headers=preflight)
    assert answer.status_code == 403 and not [name for name in answer.headers if name.startswith("access-control")]
    own = {"Origin": "http://127.0.0.1:7860", "Sec-Fetch-Site": "same-origin"}
    assert asking.get("/v1/jobs", headers=own).status_code == 200


def test_a_get_changes_nothing(tmp_path: Path) -> None:
    with context(tmp_path, rate=10**6) as made, client(made) as asking:
        job, output = drawn(made, asking)

        def state() -> list[Any]:
            with made.store.database.reading() as connection:
                names = ("jobs", "events", "outputs", "uploads", "owners", "api_keys")
                return [connection.exec_driver_sql(f"SELECT * FROM {name}").fetchall() for name in names]

        before = state()
        for path in ("/v1/jobs", f"/v1/jobs/{job.id}", f"/v1/images/{output.id}", "/v1/models", "/metrics", "/readyz"):
            for query in ("", "?delete=1", "?_method=DELETE"):
                asking.get(path + query)
        assert state() == before


# ---- A4, A9, A12, A14: on the wire -----------------------------------------------------------------------------------

STATUS = re.compile(rb"HTTP/1\.1 \d{3} ")
HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(CAR).encode()


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        HEAD + b"Content-Length: +5\r\n\r\n{}",
        HEAD + b"Content-Length: 0x5\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\n folded\r\n\r\n{}",
        HEAD + b"X: 1\r\n\tfolded: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
        HEAD + b"X: a\rContent-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X : 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X\0: 1\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: localhost/health?\r\n\r\n",
        b"GET  /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ],
    ids=range(26),
)
def test_what_is_no_plain_request_is_refused_and_hung_up_on(address: tuple[str, int], data: bytes) -> None:
    got = told(address, data)
    assert got.startswith(b"HTTP/1.1 400 "), got[:200]
    assert b"problem+json" in got and b"connection: close" in got.lower()
    assert len(STATUS.findall(got)) == 1, "the rest was taken for a request of its own"


@pytest.mark.parametrize(
    ("target", "header", "status"),
    [
        (b"http://localhost/healthz", b"localhost", b"200"),
        (b"HTTP://LOCALHOST:7860/healthz", b"evil.example", b"200"),  # the target says which host is meant
        (b"https://draw.example/v1/jobs?limit=3", b"localhost", b"200"),
        (b"http://localhost/v1/jobs?a=/b", b"localhost", b"400"),  # no such parameter
        (b"http://evil.example/healthz", b"localhost", b"421"),
        (b"http://user@localhost/healthz", b"localhost", b"400"),
        (b"http:///healthz", b"localhost", b"400"),
        (b"http://localhost#/healthz", b"localhost", b"400"),
        (b"ftp://localhost/healthz", b"localhost", b"400"),
    ],
)
def test_a_target_may_be_a_whole_address(address: tuple[str, int], target: bytes, header: bytes, status: bytes) -> None:
    """RFC 9112, 3.2.2: it counts, and the Host header does not."""
    got = told(address, b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (target, header))
    assert got.startswith(b"HTTP/1.1 " + status), got[:300]


def test_a_whole_address_may_lack_a_path_and_needs_a_host_header(address: tuple[str, int]) -> None:
    got = told(address, b"GET http://localhost?a=/b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b'"field":"a"' in got, "the path is / and the query a=/b"
    for hosts in (b"", b"Host: localhost\r\nHost: localhost\r\n"):
        got = told(address, b"GET http://localhost/healthz HTTP/1.1\r\n%b\r\n" % hosts)
        assert got.startswith(b"HTTP/1.1 400 "), got[:300]


def test_the_log_has_few_lines_about_what_is_no_http(made: Context, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with server(made) as url:
        place = "127.0.0.1", int(url.rpartition(":")[2])
        for data in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\nX\x00: 1\r\n\r\n") * 5:
            assert told(place, data).startswith(b"HTTP/1.1 400 ")
        lines = [
            record for record in caplog.records if record.name != "asyncio" and "127.0.0.1" in str(record.__dict__)
        ]
        assert [(record.name, getattr(record, "status", None)) for record in lines] == [("gesso.api.protocol", 400)]
        assert "the request is not valid HTTP/1.1" in lines[0].getMessage()


def test_a_request_hidden_behind_another_is_not_read(made: Context, address: tuple[str, int]) -> None:
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got = told(address, b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n" + hidden)
    assert len(STATUS.findall(got)) == 1 and got.startswith(b"HTTP/1.1 200")


def test_connections_are_used_again(address: tuple[str, int]) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with talking(address) as wire:
        for _ in range(3):
            wire.sendall(request[:20])
            wire.sendall(request[20:])
            got = b""
            while not got.endswith(b'{"status":"ok"}'):
                got += wire.recv(65536)
            assert got.startswith(b"HTTP/1.1 200")


def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(address: tuple[str, int]) -> None:
    """As Java's client makes one with each request."""
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
    request = post(b'{"request": {"prompt": "a", "width": 7}}').replace(b"Connection: close", offer.encode())
    for size in (len(request), 150):  # in one piece, and cut within the offer
        with talking(address) as wire:
            wire.sendall(request[:size])
            time.sleep(0.05)
            wire.sendall(request[size:])
            got = b""
            while b'"data":' not in got:
                part = wire.recv(65536)
                assert part, got
                got += part
            assert got.startswith(b"HTTP/1.1 400") and b'"field":"request.width"' in got, "the body was not read"
            assert b"connection: close" not in got.lower()


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("GET", b"Content-Length: 9\r\n"),
        ("GET", b"Transfer-Encoding: chunked\r\n"),
        ("POST", b""),
        ("GET", b"X: 1\r\n" * 200),
    ],
)
def test_a_handshake_that_is_none_is_hung_up_on(address: tuple[str, int], method: str, more: bytes) -> None:
    head = f"{method} /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n".encode()
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    begin = time.monotonic()
    assert not told(address, head + key + more + b"\r\n").startswith(b"HTTP/1.1 101")
    assert time.monotonic() - begin < 4


def test_headers_have_bounds(address: tuple[str, int]) -> None:
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    for data in (
        start + b"Cookie: " + b"x" * 100_000 + b"\r\n\r\n",
        start + b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n",
        b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        got = told(address, data)
        assert got.startswith((b"HTTP/1.1 431", b"HTTP/1.1 414")) or not got, got[:100]
    assert told(address, start + b"Connection: close\r\nX: " + b"x" * 8000 + b"\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_bodies_have_bounds(made: Context, address: tuple[str, int]) -> None:
    """Whether the length is told, or comes in chunks, or is a lie."""
    assert told(address, post(b'{"a":"' + b"x" * 5000 + b'"}')).startswith(b"HTTP/1.1 413")
    huge = HEAD + b"Content-Length: 10000000000\r\n\r\n{}"
    assert told(address, huge).startswith(b"HTTP/1.1 413")
    absurd = HEAD + b"Content-Length: " + b"9" * 200 + b"\r\n\r\n{}"
    assert told(address, absurd).startswith(b"HTTP/1.1 400")
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    assert b"HTTP/1.1 413" in told(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
    packed = post(BODY, "Content-Encoding: gzip")
    assert told(address, packed).startswith(b"HTTP/1.1 415")


def test_a_body_that_is_refused_is_not_the_next_request(made: Context, address: tuple[str, int]) -> None:
    inner = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    request = b"POST /v1/jobs/x/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
    got = told(address, request + inner)
    assert len(STATUS.findall(got)) == 1 and b"404" in got[:20]


def test_slow_headers_are_hung_up_on(address: tuple[str, int]) -> None:
    """One byte at a time: the deadline is for all of them together."""
    with talking(address) as wire:
        begin = time.monotonic()
        got = b""
        wire.settimeout(0.1)
        for byte in HEAD + b"X: y\r\n" * 20:
            try:
                wire.sendall(bytes([byte]))
                got = wire.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            break
        assert time.monotonic() - begin < 4
        assert got.startswith(b"HTTP/1.1 408") or got == b""
    with talking(address) as wire:  # and not a byte at all
        begin = time.monotonic()
        assert said(wire).startswith(b"HTTP/1.1 408") and time.monotonic() - begin < 4


def test_slow_bodies_are_hung_up_on(address: tuple[str, int]) -> None:
    with talking(address) as wire:
        wire.sendall(HEAD + b"Content-Length: 500\r\n\r\n{")
        begin = time.monotonic()
        got = said(wire)
        assert b"HTTP/1.1 408" in got and time.monotonic() - begin < 4


def test_many_slow_clients_keep_nobody_out(address: tuple[str, int]) -> None:
    slow = [socket.create_connection(address, 5) for _ in range(200)]
    try:
        for wire in slow:
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        begin = time.monotonic()
        assert told(address, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(
            b'"ok"}'
        )
        assert time.monotonic() - begin < 2
        assert said(slow[0]).startswith(b"HTTP/1.1 408"), "each is hung up on in its time"
    finally:
        for wire in slow:
            wire.close()


# ---- A18, A19: proxies and logs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "seen"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, evil\x1b[31m", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_forwarded_addresses_are_believed_of_known_proxies_alone(
    made: Context, caplog: pytest.LogCaptureFixture, peer: str, forwarded: str, seen: str
) -> None:
    with client(made, client=(peer, 1)) as asking, caplog.at_level(logging.INFO, "gesso.api.guard"):
        headers = {"X-Forwarded-For": forwarded.encode("latin-1")} if forwarded else {}
        asking.get("/healthz", headers=headers)
    assert caplog.records[-1].client == seen  # type: ignore[attr-defined]


def test_logs_hold_neither_prompts_nor_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with context(tmp_path) as made, client(made) as asking, caplog.at_level(logging.DEBUG):
        _, text = made.keys.add("a")
        headers = {"Authorization": f"Bearer {text}", "User-Agent": "evil\x1b[31m agent"}
        body = {"request": {"prompt": "a secret garden"}, "metadata": {"note": "a secret note"}}
        assert asking.post("/v1/jobs", json=body, headers=headers).status_code == 202
        asking.post("/v1/jobs", json={"request": {"prompt": "a secret garden", "width": 7}}, headers=headers)
        asking.get(f"/v1/jobs?cursor={text}", headers=headers)
        asking.get(f"/v1/{text}", headers=headers)
    logged = "\n".join(
        f"{record.getMessage()} {record.__dict__}" for record in caplog.records if "gesso" in record.name
    )
    assert "/v1/jobs" in logged and "request_id" in logged
    for word in ("secret garden", "secret note", text, text.split("_", 2)[2], "\x1b", "agent"):
        assert word not in logged


def test_logs_hold_prompts_where_that_is_switched_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line each, whatever stands in them."""
    with context(tmp_path, log_prompts=True) as made, client(made) as asking, caplog.at_level(logging.INFO):
        assert asking.post("/v1/jobs", json={"request": {"prompt": 'a "garden"\n\x1b[31m'}}).status_code == 202
    (record,) = (record for record in caplog.records if record.getMessage() == "job accepted")
    assert LogLines(as_json=False).format(record).endswith('prompt="a \\"garden\\"\\n\\u001b[31m"')
    assert json.loads(LogLines(as_json=True).format(record))["prompt"] == 'a "garden"\n\x1b[31m'


# ---- A6, A16: webhooks -----------------------------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://0/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a00:1]/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://localhost/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://metadata/",
    "http://metadata.google.internal/",
    "http://printer.local/",
]
NO_URL = [
    "",
    "example.org",
    "//example.org/",
    "file:///etc/passwd",
    "gopher://example.org/",
    "ftp://example.org/",
    "data:text/plain,x",
    "http://user@example.org/",
    "http://user:pass@example.org/",
    "http://example.org\\@127.0.0.1/",
    "http://a\\@127.0.0.1/",
    "http://example.org#@127.0.0.1/",
    "http://example.org/#x",
    "http://example.org:22/",
    "http://example.org:0/",
    "http://example.org:99999/",
    "http://exa mple.org/",
    "http://example.org/\r\nX: y",
    "http://example。org/",
    "http://ex%61mple.org/",
    "http://-a.example/",
    "http://a..b/",
    "http://" + "a" * 64 + ".example/",
    "http://example.org/" + "x" * 2048,
    "http://[v1.x]/",
    "HTTP://example.org",
]


@pytest.mark.parametrize("url", PRIVATE + NO_URL)
def test_no_webhook_leads_to_a_private_place(asking: TestClient, url: str) -> None:
    with pytest.raises(GessoError):
        check_address(url, "public")
    body = CAR | {"webhook": {"url": url, "secret": "x" * 24}}
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 400 and answer.json()["field"] == "webhook.url", answer.text


@pytest.mark.parametrize("url", NO_URL)
def test_what_is_no_address_is_none_where_private_ones_are_allowed(url: str) -> None:
    with pytest.raises(GessoError):
        check_address(url, "any")


def test_public_addresses_are_allowed() -> None:
    for url in (
        "https://example.org/hook?x=1",
        "http://example.org:8080",
        "https://8.8.8.8/",
        "https://[2606:4700::1]/a",
    ):
        assert check_address(url, "public").host
    with pytest.raises(GessoError, match="switched off"):
        check_address("https://example.org/", "off")


def test_a_name_that_leads_to_a_private_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at once, when it is called: what the name said before counts for nothing."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::ffff:10.0.0.1"]])

    def lookup(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in next(answers)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    address = check_address("https://example.org/", "public")
    assert resolve(address, "public") == "93.184.216.34"
    for _ in range(3):
        with pytest.raises(GessoError, match="private"):
            resolve(address, "public")


def test_addresses_of_the_internet_are_public() -> None:
    from ipaddress import ip_address

    assert all(is_public(ip_address(text)) for text in ("8.8.8.8", "2606:4700::1"))
    assert not any(is_public(ip_address(text)) for text in ("192.0.2.1", "198.51.100.1", "2001:db8::1", "ff02::1"))


class Receiver(http.server.BaseHTTPRequestHandler):
    """Notes what it is told, and answers as it is told to."""

    heard: list[tuple[dict[str, str], bytes]]
    answers: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.heard.append(({name.lower(): value for name, value in self.headers.items()}, body))
        status = self.answers.pop(0) if self.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def receiver(*answers: int) -> Iterator[tuple[str, type[Receiver]]]:
    kind = type("Own", (Receiver,), {"heard": [], "answers": list(answers)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/hook?a=b", kind
        listening.shutdown()


def wait(condition: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_webhook_is_told_signed_and_again_until_it_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.api.webhooks.PAUSES", (0.01,) * 8)
    monkeypatch.setattr("gesso.api.webhooks.LOOK", 0.02)
    secret = "whsec_" + base64.b64encode(b"a secret of 24 bytes ...").decode()
    with receiver(500, 302) as (url, own), context(tmp_path, webhooks="any") as made, client(made) as asking:
        telling = Webhooks(made.store, "any", made.metrics)
        telling.start()
        job, output = drawn(made, asking, CAR | {"webhook": {"url": url, "secret": secret}, "metadata": {"mine": 1}})
        wait(lambda: len(own.heard) == 3 and not made.store.webhooks_due())
        telling.stop()
    headers, body = own.heard[-1]
    content = json.loads(body)
    assert content["type"] == "job.succeeded" and content["data"]["id"] == job.id
    assert content["data"]["outputs"][0]["id"] == output.id and content["data"]["metadata"] == {"mine": 1}
    assert "prompt" not in body.decode(), "what was asked for stays here"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"a secret of 24 bytes ...", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert len({heard["webhook-id"] for heard, _ in own.heard}) == 1
    assert sum(PAUSES) >= 86_400 - 3600


def test_a_webhook_is_told_after_the_server_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.api.webhooks.LOOK", 0.02)
    with receiver() as (url, own):
        with context(tmp_path, webhooks="any") as made, client(made) as asking:
            drawn(made, asking, CAR | {"webhook": {"url": url, "secret": "x" * 24}})
        with context(tmp_path, webhooks="any") as made:
            telling = Webhooks(made.store, "any", made.metrics)
            telling.start()
            wait(lambda: own.heard and not made.store.webhooks_due())
            telling.stop()
        assert len(own.heard) == 1


def test_a_webhook_that_is_gone_or_not_allowed_any_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesso.api.webhooks.LOOK", 0.02)
    with receiver(410) as (url, own), context(tmp_path, webhooks="any") as made, client(made) as asking:
        drawn(made, asking, CAR | {"webhook": {"url": url, "secret": "x" * 24}})
        telling = Webhooks(made.store, "any", made.metrics)
        telling.start()
        wait(lambda: not made.store.webhooks_due())
        telling.stop()
        drawn(made, asking, CAR | {"webhook": {"url": url, "secret": "x" * 24}})
        strict = Webhooks(made.store, "public", made.metrics)
        strict.start()
        wait(lambda: not made.store.webhooks_due())
        strict.stop()
    assert len(own.heard) == 1, "the second one was private, and nobody called there"


def test_an_answer_that_comes_byte_by_byte_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesso.api.webhooks.WHOLE", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def drip() -> None:
            wire, _ = listening.accept()
            with closing(wire):
                wire.recv(65536)
                try:
                    for byte in b"HTTP/1.1 204 " + b"x" * 100:
                        wire.sendall(bytes([byte]))
                        time.sleep(0.1)
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        begin = time.monotonic()
        with pytest.raises((OSError, http.client.HTTPException)):
            send(Address("http", "localhost", listening.getsockname()[1], "/"), "127.0.0.1", b"{}", {})
        assert time.monotonic() - begin < 5


@pytest.mark.parametrize("secret", ["short", "whsec_!!!", "whsec_YQ==", 7])
def test_secrets_of_webhooks_are_checked(asking: TestClient, secret: Any) -> None:
    body = CAR | {"webhook": {"url": "https://example.org/", "secret": secret}}
    answer = asking.post("/v1/jobs", json=body)
    assert answer.status_code == 400 and answer.json()["field"] == "webhook.secret", answer.text
    if secret == "short":
        assert answer.json()["detail"] == "webhook.secret has 5 characters, expected 16 to 256"


def test_signatures_are_those_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "a secret of plain text"])
def test_the_check_of_signatures_on_the_page_takes_what_is_sent_and_nothing_else(secret: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = (text for text in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "hmac" in text)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/serving.md", "exec"), names)
    is_from_gesso, body, now = names["is_from_gesso"], b'{"type":"job.succeeded"}', int(time.time())

    def headers(at: int) -> dict[str, str]:
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(at),
            "webhook-signature": signature(secret, "msg_1", at, body),
        }

    good = headers(now)
    assert is_from_gesso(secret, good, body)
    assert not is_from_gesso(secret, good, body + b" ")
    assert not is_from_gesso(secret + "BBBB", good, body)
    assert not is_from_gesso(secret, good | {"webhook-id": "msg_2"}, body)
    assert not is_from_gesso(secret, good | {"webhook-timestamp": str(now + 1)}, body)
    assert not is_from_gesso(secret, headers(now - 3600), body), "an old delivery, played back"


# ---- names that are programs -----------------------------------------------------------------------------------------


def test_whatever_a_text_says_it_comes_back_as_text(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'${jndi:x}{{7*7}}\r\n=cmd|x"
    with context(tmp_path) as made, client(made) as asking:
        body = {"request": {"prompt": f"a car {evil}"}, "metadata": {"evil": evil}}
        answer = asking.post("/v1/jobs", json=body)
        assert answer.status_code == 202 and answer.json()["metadata"] == {"evil": evil}
        assert (
            answer.headers["content-type"] == "application/json"
            and answer.headers["x-content-type-options"] == "nosniff"
        )
        refused = asking.post("/v1/jobs", json=CAR | {"model": evil})
        assert refused.headers["content-type"] == "application/problem+json"
        finish(made, lease(made))
        assert made.store.counts() == {JobStatus.SUCCEEDED: 1}


def test_no_answer_allows_scripts_frames_or_other_sites() -> None:
    policy = dict(SECURITY_HEADERS)[b"content-security-policy"]
    assert b"default-src 'none'" in policy and b"unsafe" not in policy and b"frame-ancestors 'none'" in policy
