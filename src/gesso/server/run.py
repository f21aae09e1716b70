"""A server from its settings to its end: the queue, the workers, the application, the sockets."""

import ctypes
import errno
import gc
import logging
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from types import FrameType

import uvicorn

from gesso.api.checking import Checker, family_facts
from gesso.api.context import Context
from gesso.api.guard import networks
from gesso.api.helper import Helper
from gesso.api.keeping import Housekeeper
from gesso.api.metrics import Metrics
from gesso.api.protocol import protocol
from gesso.api.webhooks import Webhooks
from gesso.errors import GessoError
from gesso.library import Library
from gesso.server.app import create_app
from gesso.serving.gallery import Gallery
from gesso.serving.keys import KeyStore
from gesso.serving.options import WorkerOptions
from gesso.serving.settings import ServeSettings
from gesso.serving.storage import Blobs, open_blobs
from gesso.serving.store import JobStore
from gesso.serving.supervisor import Supervisor
from gesso.serving.thumbnails import Thumbnails
from gesso.serving.tracing import open_tracing
from gesso.studio.home import library_folder
from gesso.surfaces.comfy.sockets import MAX_MESSAGE, SocketProtocol, with_sockets

M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of malloc.h
GRACE = 5  # seconds for answers that are on their way when the server stops

log = logging.getLogger(__name__)


def serve(settings: ServeSettings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    on_ready  told the address when the server answers there
    Raises GessoError for an address that cannot be had, and for one beyond this machine where there is no key.
    """
    give_memory_back()
    with open_context(settings) as context:
        check_exposure(context)
        listening = listen(settings)
        with ExitStack() as stack:
            stack.callback(listening.close)
            raise_limit(settings)
            for part in (
                Housekeeper(context.store, context.blobs, context.metrics, context.thumbnails),
                Webhooks(context.store, settings.webhooks, context.metrics),
            ):
                part.start()
                stack.callback(part.stop)
            supervisor = context.supervisor
            if supervisor is not None:
                stack.callback(supervisor.stop)

            def ready() -> None:
                settle()
                on_ready(address_of(settings, listening))
                if supervisor is not None:  # after that: a worker that starts takes all that a processor has
                    supervisor.start()

            make_server(context, ready).run(sockets=[listening])


def give_memory_back() -> None:
    """Let all threads have their memory from two arenas, and pieces of 1 MiB and more from the system, to which they
    go back when they are freed.

    glibc makes an arena for each thread, up to eight a core, and each keeps what was freed in it: the more threads
    have worked, the larger a server is that holds nothing more. It also takes pieces of 16 MiB, of which Pillow's
    pictures are made, from arenas once it has seen one freed: an upload of 64 megapixels left 400 MB behind. Other
    libraries know nothing of this.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, 2)
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)


def settle() -> None:
    """Take all that is there by now, modules above all, for what stays: to look for garbage among it, as Python does
    now and then, takes some tenths of a second in which nobody is answered."""
    gc.freeze()


def make_server(context: Context, on_ready: Callable[[], None]) -> uvicorn.Server:
    """The application of a server, and what runs it on sockets that listen.  on_ready: called when it answers"""
    family_facts()  # read now, and not by the first request
    config = uvicorn.Config(
        with_sockets(create_app(context)),
        http=protocol(context.settings.header_timeout),
        ws=SocketProtocol,
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,  # nothing that is sent grows when it is unpacked
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the guard believes no proxy that it is not told to
        limit_concurrency=context.settings.max_connections,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, context, on_ready)


@contextmanager
def open_context(settings: ServeSettings) -> Iterator[Context]:
    """What a server works with; closed at the end. Raises GessoError for what cannot be used."""
    networks(settings.trusted_proxies)
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise GessoError(f"{folder}: cannot be made ({error.strerror})", code="unwritable", field="home") from error
    store = JobStore(
        settings.database_url,
        max_queued=settings.max_queue,
        max_queued_per_owner=settings.max_queue_per_key,
        keep_seconds=settings.keep_seconds,
    )
    with ExitStack() as stack:
        stack.callback(store.close)
        blobs = open_blobs(settings.pictures_address, folder / "copies")
        supervisor = Supervisor(store, worker_options(settings, blobs)) if settings.workers else None
        tracing = open_tracing(settings.traces, "server")
        stack.callback(tracing.close)
        helper = stack.enter_context(closing(Helper()))
        context = Context(
            settings=settings,
            store=store,
            blobs=blobs,
            keys=KeyStore(store.database, folder),
            checker=Checker(Library(library_folder()), settings),
            gallery=Gallery(store.database),
            thumbnails=Thumbnails(folder / "thumbnails", blobs),
            helper=helper,
            metrics=Metrics(
                store,
                lambda: supervisor.restarts if supervisor is not None else 0,
                lambda: shutil.disk_usage(blobs.root).free,
            ),
            supervisor=supervisor,
            tracing=tracing,
        )
        try:
            yield context
        finally:
            context.writers.shutdown(wait=False, cancel_futures=True)


def worker_options(settings: ServeSettings, blobs: Blobs) -> list[WorkerOptions]:
    """What each worker process is told."""
    one = WorkerOptions(
        database=settings.database_url,
        blobs=blobs.address,
        copies=str(blobs.root),
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        memory=settings.memory,
        rows_per_call=settings.batch,
        max_models=settings.max_models,
        jobs_at_once=settings.jobs_at_once,
        keep_alive=settings.keep_alive,
        keep_seconds=settings.keep_seconds,
        preview_seconds=settings.previews,
        wildcards=None if settings.wildcards is None else str(settings.wildcards),
        json_log=settings.log_format == "json",
        traces=settings.traces,
    )
    return [one] * settings.workers


def check_exposure(context: Context) -> None:
    """Raises GessoError where others could reach the server and nothing would ask who they are."""
    settings = context.settings
    if settings.is_loopback or any(key.revoked_at is None for key in context.keys.list()):
        return
    raise GessoError(
        f"`host` {settings.host} can be reached from other machines, and there is no API key that they would need. "
        "Make one first: gesso keys add NAME",
        code="unauthorized",
        field="host",
    )


def raise_limit(settings: ServeSettings) -> None:
    """As many open files as connections may want, where the system allows it; usually the limit is 1024."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + 512
    if soft not in (resource.RLIM_INFINITY,) and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that listens at the address. Raises GessoError."""
    host = settings.host.strip("[]")
    made: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = found[0]
        made = socket.socket(family, kind, proto)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        if made is not None:
            made.close()
        taken = error.errno == errno.EADDRINUSE
        advice = "Something else listens there; choose another with `port`" if taken else "Choose another with `host`"
        reason = error.strerror or str(error)
        raise GessoError(f"{host}:{settings.port}: {reason}. {advice}", code="system", field="port") from error
    made.listen(2048)
    made.setblocking(False)
    return made


def address_of(settings: ServeSettings, listening: socket.socket) -> str:
    """Where the server is found."""
    host = settings.host.strip("[]")
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is there, ends its streams when it is told to stop, and ends well then."""

    def __init__(self, config: uvicorn.Config, context: Context, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.context, self._on_ready = context, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.context.is_stopping = True
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which raises the signal once more at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
