"""Webhooks over TLS: a real receiver, with certificates of an authority of the tests' own."""

import datetime
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gesso.api.webhooks import Webhooks
from serving.served import CAR, client, context, drawn

trustme = pytest.importorskip("trustme", reason="trustme is not installed")

NAME = "hooks.example.org"


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads to this machine, and nobody waits."""
    found = socket.getaddrinfo

    def here(host: str, *args: Any, **options: Any) -> Any:
        return found("127.0.0.1" if host == NAME else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setattr("gesso.api.webhooks.LOOK", 0.02)
    monkeypatch.setattr("gesso.api.webhooks.PAUSES", (0.01,) * 2 + (1000.0,))


@contextmanager
def receiving(cert: Any, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Iterator[tuple[int, list[Any], list[str]]]:
    """A receiver.  -> its port, what it hears, and the names that it is called by in TLS"""
    heard: list[Any] = []
    names: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append((dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # handshakes that the client breaks off

    speaks = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if most < ssl.TLSVersion.TLSv1_2:
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            speaks.maximum_version = most
    cert.configure_cert(speaks)
    speaks.sni_callback = lambda _, name, __: names.append(name)
    with Server(("127.0.0.1", 0), Handler) as listening:
        listening.socket = speaks.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=True)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield listening.server_port, heard, names
        finally:
            listening.shutdown()
            thread.join()


def told(home: Path, url: str, seconds: float = 20.0) -> tuple[str, int]:
    """How it went: the result of the last try, and the number of tries."""
    with context(home, webhooks="any") as made, client(made) as asking:
        drawn(made, asking, CAR | {"webhook": {"url": url, "secret": "x" * 24}})
        results: list[str] = []
        counted = made.metrics.webhooks.labels
        made.metrics.webhooks.labels = lambda result: (results.append(result), counted(result))[1]  # type: ignore[method-assign]
        telling = Webhooks(made.store, "any", made.metrics)
        telling.start()
        try:
            end = time.monotonic() + seconds
            while not results or (results[-1] == "failed" and len(results) < 3):
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            telling.stop()
        return results[-1], len(results)


def trusted(authority: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process trust the authority, as an operator would."""
    authority.cert_pem.write_to_path(folder / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))


def test_a_receiver_with_a_good_certificate_is_told(
    authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted(authority, tmp_path, monkeypatch)
    with receiving(authority.issue_cert(NAME)) as (port, heard, names):
        assert told(tmp_path, f"https://{NAME}:{port}/hook?a=b") == ("told", 1)
    ((headers, body),) = heard
    assert names == [NAME] and headers["Host"] == f"{NAME}:{port}"
    assert body["type"] == "job.succeeded" and headers["webhook-signature"].startswith("v1,")


def test_nothing_is_told_to_whom_nobody_vouches_for(tmp_path: Path, authority: Any) -> None:
    with receiving(authority.issue_cert(NAME)) as (port, heard, _):
        assert told(tmp_path, f"https://{NAME}:{port}/hook") == ("failed", 3)
    assert heard == []


@pytest.mark.parametrize("wrong", ["name", "date", "version"])
@pytest.mark.sampled(3)
def test_nothing_is_told_under_a_wrong_certificate(
    wrong: str, authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted(authority, tmp_path, monkeypatch)
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    cert = {
        "name": lambda: authority.issue_cert("another.example.org"),
        "date": lambda: authority.issue_cert(NAME, not_after=yesterday),
        "version": lambda: authority.issue_cert(NAME),
    }[wrong]()
    with receiving(cert, ssl.TLSVersion.TLSv1_1 if wrong == "version" else ssl.TLSVersion.TLSv1_3) as (port, heard, _):
        assert told(tmp_path, f"https://{NAME}:{port}/hook") == ("failed", 3)
    assert heard == []


def test_an_address_is_vouched_for_as_well(authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for an IP address, and none for another name on the same machine."""
    trusted(authority, tmp_path, monkeypatch)
    with receiving(authority.issue_cert("127.0.0.1")) as (port, heard, names):
        assert told(tmp_path, f"https://127.0.0.1:{port}/hook") == ("told", 1)
    assert len(heard) == 1 and names in ([], [None])
