"""Tells webhooks of the final state of jobs: signed, retried for a day, and never anywhere but where it is allowed.

What is due stands in the database, so a server that was stopped tells it later. Someone may be told twice, never of
something that did not happen; `webhook-id` is the same each time.
"""

import http.client
import json
import logging
import math
import socket
import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event, Thread, Timer
from typing import Any

from gesso import __version__
from gesso.api.addresses import Address, check_address, resolve
from gesso.api.metrics import Metrics
from gesso.api.schemas import at, job_json
from gesso.api.signing import signature
from gesso.errors import GessoError
from gesso.serving.jobs import Job, Webhook
from gesso.serving.settings import Webhooks as Policy
from gesso.serving.store import JobStore

PAUSES = (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0, 28_800.0, 43_200.0)  # seconds between tries, a day in all
TIMEOUT = 10.0  # seconds in which something has to come
WHOLE = 20.0  # seconds in which all of it has to
AT_ONCE = 8
LOOK = 0.5
HEADROOM = 120.0  # seconds before something is tried again whose outcome nobody noted

log = logging.getLogger(__name__)


class Webhooks:
    """The thread that looks for what is due, and those that tell it."""

    def __init__(self, store: JobStore, policy: Policy, metrics: Metrics) -> None:
        self.store, self.policy, self.metrics = store, policy, metrics
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="webhooks", daemon=True)
        self._busy: dict[str, Future[None]] = {}
        self._again_at = math.inf  # when the next one is told once more

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Tell nobody any more; what is on its way ends by itself, and else is tried again by the next server."""
        self._stopping.set()
        self._thread.join(2)

    def _run(self) -> None:
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        mark = ""
        last = 0.0
        while not self._stopping.wait(LOOK):
            try:
                now = self.store.changes()
                if now == mark and time.monotonic() < min(last + 5, self._again_at):
                    continue
                if time.monotonic() >= self._again_at:
                    self._again_at = math.inf
                mark, last = now, time.monotonic()
                for hook in self.store.webhooks_due(AT_ONCE):
                    if hook.job not in self._busy and len(self._busy) < AT_ONCE:
                        self._busy[hook.job] = pool.submit(self._tell, hook)
                        self._busy[hook.job].add_done_callback(partial(self._done, hook.job))
            except Exception as error:  # the database is away for a moment
                log.warning("webhooks wait: %s", type(error).__name__)
        pool.shutdown(wait=False, cancel_futures=True)

    def _done(self, job: str, future: Future[None]) -> None:
        self._busy.pop(job, None)

    def _tell(self, hook: Webhook) -> None:
        try:
            result = self._try(hook)
        except Exception:
            log.exception("a webhook failed in a way that was not foreseen")
            result = "failed"
        self.metrics.webhooks.labels(result).inc()
        again = None
        if result == "failed" and hook.tries < len(PAUSES):
            again = PAUSES[hook.tries]
        elif result != "told":
            log.warning("webhook of job %s given up: %s", hook.job, result)
        self.store.webhook_told(hook.job, again_in=again)
        if again is not None:
            self._again_at = min(self._again_at, time.monotonic() + again)

    def _try(self, hook: Webhook) -> str:
        """ "told", "failed", or why there is no sense in trying again: "gone", "refused", "forgotten" """
        try:
            job = self.store.get(hook.job)
        except GessoError:
            return "forgotten"
        url, secret = str(hook.target.get("url", "")), str(hook.target.get("secret", ""))
        body = json.dumps(content_of(job), separators=(",", ":")).encode()
        ident, now = f"msg_{job.id}", int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"gesso/{__version__}",
            "webhook-id": ident,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(secret, ident, now, body),
        }
        try:
            address = check_address(url, self.policy)
            status = post(address, resolve(address, self.policy), body, headers)
        except GessoError:
            return "refused"
        except (OSError, http.client.HTTPException) as error:
            log.info("webhook of job %s not told: %s", hook.job, type(error).__name__)
            return "failed"
        if status == 410:
            return "gone"
        return "told" if 200 <= status < 300 else "failed"


def content_of(job: Job) -> dict[str, Any]:
    """What a webhook is told of a final job: all that its client sees of it but the request, which may be private."""
    data = {key: value for key, value in job_json(job).items() if key != "request"}
    return {"type": f"job.{job.status}", "timestamp": at(job.completed_at), "data": data}


def post(address: Address, ip: str, body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer to a POST, whose redirections are not followed and whose body is not read.

    ip: that the name was resolved to; the connection goes there, whatever the name says by then
    """
    connection = _Pinned(address, ip)
    watch = Timer(WHOLE, connection.hang_up)  # an answer that comes byte by byte holds nobody up for ever
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", address.target, body=body, headers=headers)
        return connection.getresponse().status
    finally:
        watch.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was looked at."""

    def __init__(self, address: Address, ip: str) -> None:
        super().__init__(address.host, address.port, timeout=TIMEOUT)
        self.address, self.ip = address, ip
        self.default_port = {"http": 80, "https": 443}[address.scheme]

    def connect(self) -> None:
        plain = socket.create_connection((self.ip, self.address.port), TIMEOUT)
        if self.address.scheme == "https":
            context = ssl.create_default_context()
            self.sock: Any = context.wrap_socket(plain, server_hostname=self.address.host)
        else:
            self.sock = plain

    def hang_up(self) -> None:
        """End it, from another thread."""
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)
