"""What a worker process is told when it starts. Imported without torch, by the server that starts it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Settings of one worker process.

    database, blobs   the queue's database, and the folder or object storage of pictures
    copies            folder for copies of pictures from object storage
    number            of the worker, from 0; it takes the device of that number where several will do
    device, dtype, threads, memory, rows_per_call, max_models
                      of its engine, see `gesso.studio.studio.EngineOptions`
    keep_alive        seconds without work after which the models are dropped from memory; below 0: never
    keep_seconds      final jobs are forgotten after so long; None: never
    max_crashes       workers that may die with a job before it is set aside as failed
    jobs_at_once      jobs that are drawn side by side, so that short ones pass long ones. With a memory limit it is one
    lease_seconds     a job is taken from a worker that has not said for so long that it lives
    stop_seconds      what is being drawn may still be finished when the worker is told to stop
    hang_seconds      a worker that finished no step for so long ends itself; None: never
    progress_seconds  between two reports of progress
    preview_seconds   between two previews; 0: none. They never take more than a tenth of the time
    wildcards         folder of lists for __name__ in prompts
    library           folder of the models; None: the user's
    json_log          the log has a JSON object a line, else text
    traces            where OpenTelemetry traces go; None: nowhere
    """

    database: str
    blobs: str
    copies: str | None = None
    number: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    memory: int | str | None = None
    rows_per_call: int = 1
    max_models: int = 1
    keep_alive: float = 300.0
    keep_seconds: float | None = None
    max_crashes: int = 2
    jobs_at_once: int = 4
    lease_seconds: float = 30.0
    stop_seconds: float = 10.0
    hang_seconds: float | None = 1800.0
    progress_seconds: float = 0.25
    preview_seconds: float = 1.0
    wildcards: str | None = None
    library: str | None = None
    json_log: bool = False
    traces: str | None = None

    def to_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerOptions":
        """What `to_json` wrote. Raises ValueError."""
        values: dict[str, Any] = json.loads(text)
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown options of a worker: {', '.join(sorted(unknown))}")
        return cls(**values)
