"""Tells the sockets of clients what happens to their prompts.

Events come from the database, as all others do, and only while somebody listens. A client hears of its own prompts:
those that came with its client_id under its key. How many are not done is told to all sockets of a key, of its prompts
alone.
"""

import asyncio
import base64
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from gesso.api.context import Context
from gesso.api.events import Hub
from gesso.errors import GessoError
from gesso.serving.jobs import JobEvent, JobStatus
from gesso.surfaces.comfy import messages
from gesso.surfaces.comfy.prompts import SURFACE, Prompt, outputs_of, prompt_of, prompts_of

MAX_WAITING = 256  # messages for a client that does not take them
LATE = 60.0  # seconds after its end in which a client that connects is still told of it
MAX_TOLD = 10_000

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Socket:
    """One connection.

    owner, client  whose it is; sid: as the client is called in messages
    flags          what the client said that it can read
    """

    owner: str
    client: str
    queue: "asyncio.Queue[str | bytes | None]" = field(default_factory=lambda: asyncio.Queue(MAX_WAITING))
    flags: Mapping[str, Any] = field(default_factory=dict)
    is_lost: bool = False

    def send(self, content: str | bytes, *, lossy: bool = False) -> None:
        """Say something, when the client takes it. One that takes nothing is hung up on, unless it is but a preview."""
        if lossy and self.queue.qsize() > MAX_WAITING // 4:
            return
        try:
            self.queue.put_nowait(content)
        except asyncio.QueueFull:
            self.is_lost = True
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)


class Watchers:
    """All sockets of a server, and who follows their prompts."""

    def __init__(self, context: Context, hub: Hub) -> None:
        self.context, self.hub = context, hub
        self.sockets: set[Socket] = set()
        self._following: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._chains: set[str] = set()  # prompts some of whose jobs come later
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    def of(self, owner: str, client: str | None = None) -> list[Socket]:
        """The sockets of an owner, or of one client of it."""
        return [one for one in self.sockets if one.owner == owner and client in (None, one.client)]

    async def join(self, socket: Socket) -> None:
        """A client that just connected: how much there is to do, and what it has missed."""
        remaining = await run_in_threadpool(prompts_of, self.context, socket.owner, unfinished=True)
        socket.send(messages.status(len(remaining), socket.client))
        self.sockets.add(socket)  # what is submitted from now on sees it; what was before is read now
        for prompt in await run_in_threadpool(prompts_of, self.context, socket.owner, unfinished=True):
            self.follow(prompt)
        for prompt in await run_in_threadpool(prompts_of, self.context, socket.owner, newest=50):
            key = (socket.owner, prompt.id)
            is_mine = prompt.client == socket.client and key not in self._following
            if is_mine and prompt.is_final and self._is_news(prompt):
                self.end(prompt)

    def leave(self, socket: Socket) -> None:
        """The end of a connection."""
        self.sockets.discard(socket)
        if not self.of(socket.owner):
            for key, task in list(self._following.items()):
                if key[0] == socket.owner and key[1] not in self._chains:
                    task.cancel()
                    self._forget(key, task)

    async def submitted(self, owner: str, prompt: Prompt | None = None) -> None:
        """Something was submitted or cancelled.  prompt: that was"""
        if prompt is not None and len(prompt.jobs) < prompt.about["jobs"]:
            self.follow(prompt)
        if self.of(owner):
            for prompt in await self.tell_remaining(owner):
                self.follow(prompt)

    async def tell_remaining(self, owner: str) -> list[Prompt]:
        """Tell all sockets of an owner how much there is to do. -> what that is"""
        prompts = await run_in_threadpool(prompts_of, self.context, owner, unfinished=True)
        for socket in self.of(owner):
            socket.send(messages.status(len(prompts)))
        return prompts

    def _is_news(self, prompt: Prompt) -> bool:
        key = (prompt.jobs[0].owner, prompt.id)
        ended = max(job.completed_at or 0.0 for job in prompt.jobs)
        return key not in self._told and time.time() - ended < LATE

    def follow(self, prompt: Prompt) -> None:
        """Tell what happens to a prompt until it is done, and have its later jobs queued."""
        key = (prompt.jobs[0].owner, prompt.id)
        if key not in self._following:
            task = asyncio.get_running_loop().create_task(_Follower(self, prompt).run())
            self._following[key] = task
            if len(prompt.jobs) < prompt.about["jobs"]:
                self._chains.add(prompt.id)
            task.add_done_callback(lambda task: self._forget(key, task))

    def _forget(self, key: tuple[str, str], task: "asyncio.Task[None]") -> None:
        if self._following.get(key) is task:
            del self._following[key]
            self._chains.discard(key[1])

    def end(self, prompt: Prompt) -> None:
        """Tell the client of a prompt's end: history has it already."""
        key = (prompt.jobs[0].owner, prompt.id)
        if key in self._told:
            return
        kind, data = prompt.ending()
        for socket in self.of(key[0], prompt.client) if prompt.client is not None else ():
            socket.send(messages.timed(kind, data))
            socket.send(messages.message("executing", node=None, display_node=None, prompt_id=prompt.id))
            self._told[key] = None
        while len(self._told) > MAX_TOLD:
            self._told.popitem(last=False)


class _Follower:
    """Follows one prompt until all of it is done."""

    def __init__(self, watchers: Watchers, prompt: Prompt) -> None:
        self.watchers, self.prompt = watchers, prompt
        self.owner = prompt.jobs[0].owner
        self.order: list[str] = list(prompt.about.get("order") or ())
        self.started = False
        self.node: str | None = None
        self.states: dict[str, tuple[float, float, str]] = {}
        self.seen = {job.id: 0 for job in prompt.jobs}
        self.open = {job.id for job in prompt.jobs}

    async def run(self) -> None:
        """Until the prompt is done, or nobody listens any more."""
        hub = self.watchers.hub
        watched = {job.id: hub.watch(job.id) for job in self.prompt.jobs}
        try:
            while not self.watchers.context.is_stopping:
                try:
                    if await self._step(watched):
                        return
                except GessoError as error:
                    if error.code == "job_missing":
                        return  # it was deleted
                    await asyncio.sleep(1)  # the database is away for a moment
                except Exception:
                    log.exception("a prompt cannot be followed; it is tried again")
                    await asyncio.sleep(1)
        finally:
            for job, changed in watched.items():
                hub.leave(job, changed)

    async def _step(self, watched: dict[str, asyncio.Event]) -> bool:
        """Tell what has happened, and wait for more. -> whether the prompt is done, and its end was told"""
        for job, changed in watched.items():
            if job in self.open:
                changed.clear()
                await self._look(job)
        if len(watched) < self.prompt.about["jobs"] and await self._more():
            watched |= {job: self.watchers.hub.watch(job) for job in self.open if job not in watched}
            return False
        if not self.open:
            await self._finish()
            return True
        waits = [asyncio.ensure_future(watched[job].wait()) for job in self.open]
        try:
            await asyncio.wait(waits, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        return False

    async def _more(self) -> bool:
        """Look for jobs that follow on those that are done. -> whether there are"""
        now = await run_in_threadpool(prompt_of, self.watchers.context, self.prompt.id, self.owner)
        new = [job for job in now.jobs if job.id not in self.seen] if now is not None else []
        if now is not None and new:
            self.prompt = now
            self.seen |= {job.id: 0 for job in new}
            self.open |= {job.id for job in new}
        return bool(new)

    async def _look(self, job: str) -> None:
        store = self.watchers.context.store
        for event in await run_in_threadpool(store.events_after, job, self.seen[job]):
            self.seen[job] = event.number
            await self._tell(job, event)

    async def _tell(self, job: str, event: JobEvent) -> None:
        if event.type == "status":
            now = JobStatus(event.data["status"])
            if now == JobStatus.RUNNING:
                self._start(job)
            elif now.is_final:
                self.open.discard(job)
                if now == JobStatus.SUCCEEDED:
                    self._start(job)
                    await self._executed(job)
        elif event.type == "progress":
            self._progress(job, event.data)
        elif event.type == "preview":
            self._preview(job, event.data)

    def _say(self, content: str | bytes, *, lossy: bool = False) -> None:
        if self.prompt.client is not None:
            for socket in self.watchers.of(self.owner, self.prompt.client):
                socket.send(content, lossy=lossy)

    def _sampler(self, job: str) -> str:
        about = next(one for one in self.prompt.jobs if one.id == job).metadata[SURFACE]
        return str((about.get("samplers") or ["0"])[0])

    def _start(self, job: str) -> None:
        sampler = self._sampler(job)
        if not self.started:
            self.started = True
            self._say(messages.timed("execution_start", {"prompt_id": self.prompt.id}))
            self._say(messages.timed("execution_cached", {"nodes": [], "prompt_id": self.prompt.id}))
            for node, files in (self.prompt.about.get("passed") or {}).items():
                self._done(node, {"images": files})
        if self.states.get(sampler, (0, 0, ""))[2] in ("running", "finished"):
            return
        for node in self.order[: self.order.index(sampler)] if sampler in self.order else ():
            if node not in self.states and not self._is_output(node):
                self._executing(node)
                self.states[node] = (1, 1, "finished")
        self._executing(sampler)
        self.states[sampler] = (0, 1, "running")
        self._say(messages.progress_state(self.prompt.id, self.states))

    def _is_output(self, node: str) -> bool:
        return node in (self.prompt.about.get("outputs") or ())

    def _executing(self, node: str) -> None:
        if self.node != node:
            self.node = node
            self._say(messages.message("executing", node=node, display_node=node, prompt_id=self.prompt.id))

    def _progress(self, job: str, data: Mapping[str, Any]) -> None:
        sampler, step, steps = self._sampler(job), data.get("step"), data.get("steps")
        if step is None or not steps:
            return
        self._start(job)
        self._executing(sampler)
        self.states[sampler] = (step, steps, "running")
        self._say(
            messages.message("progress", value=step, max=steps, prompt_id=self.prompt.id, node=sampler), lossy=True
        )
        self._say(messages.progress_state(self.prompt.id, self.states), lossy=True)

    def _preview(self, job: str, data: Mapping[str, Any]) -> None:
        """A preview, for clients that know what it is: see docs/serving-comfy.md."""
        asked = (self.prompt.about.get("extra_data") or {}).get("preview_method")
        if self.prompt.client is None or asked == "none":
            return
        content_type, picture = str(data["content_type"]), base64.b64decode(data["data_base64"])
        for socket in self.watchers.of(self.owner, self.prompt.client):
            if socket.flags.get("supports_preview_metadata") is True:
                frame = messages.preview_frame(content_type, picture, self._sampler(job), self.prompt.id)
                socket.send(frame, lossy=True)
            elif asked is not None and asked != "default":
                socket.send(messages.picture_frame(content_type, picture), lossy=True)

    def _done(self, node: str, output: Mapping[str, Any]) -> None:
        self._executing(node)
        self.states[node] = (1, 1, "finished")
        self._say(
            messages.message("executed", node=node, display_node=node, output=dict(output), prompt_id=self.prompt.id)
        )

    async def _executed(self, id: str) -> None:
        """The nodes after the sampler of a job that is done, with what came out."""
        context = self.watchers.context
        job = await run_in_threadpool(context.store.get, id)
        about = job.metadata[SURFACE]
        for sampler in about.get("samplers") or ():
            _, most, _ = self.states.get(str(sampler), (1, 1, ""))
            self.states[str(sampler)] = (most, most, "finished")
        outputs = outputs_of(job)
        for node in self.order:
            if node in self.states or (self._is_output(node) and node not in about["saves"]):
                continue
            if node in outputs:
                self._done(node, outputs[node])
            elif node in about["saves"]:
                self._executing(node)
                for output in job.outputs:
                    data = await run_in_threadpool(context.blobs.read, output.digest)
                    self._say(messages.picture_frame(output.content_type, data))
                self.states[node] = (1, 1, "finished")
            else:
                self._executing(node)
                self.states[node] = (1, 1, "finished")
        self._say(messages.progress_state(self.prompt.id, self.states))

    async def _finish(self) -> None:
        store = self.watchers.context.store
        jobs = [await run_in_threadpool(store.get, job.id) for job in self.prompt.jobs]
        final = Prompt(id=self.prompt.id, about=self.prompt.about, jobs=tuple(jobs))
        if not self.started and self.prompt.client is not None:
            self._say(messages.timed("execution_start", {"prompt_id": self.prompt.id}))
        await self.watchers.tell_remaining(self.owner)
        self.watchers.end(final)


def watchers_of(request: Request) -> Watchers:
    """The sockets of the server that is asked."""
    state = request.app.state
    if not hasattr(state, "comfy"):
        state.comfy = Watchers(state.context, Hub(state.context))  # its own: prompts count for no streams
    watchers: Watchers = state.comfy
    return watchers
