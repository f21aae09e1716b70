"""A worker in a thread whose model is a random tiny one, for tests of all around it: a picture takes milliseconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gesso.api.context import Context
from gesso.pipelines.text_to_image import TextToImage
from gesso.runtime.engine import Engine
from gesso.serving.worker import WorkerLoop
from serving.drawing_server import working
from tiny_models import save_tiny_mini


@contextmanager
def tiny_worker(made: Context, folder: Path) -> Iterator[WorkerLoop]:
    """Draws whatever model is asked for with the tiny one.  folder: where its file goes"""
    path = folder / "tiny.safetensors"
    if not path.exists():
        save_tiny_mini(path)
    engine = Engine("cpu")
    pipeline = TextToImage(engine, engine.load(str(path)))

    class Tiny(WorkerLoop):
        def _pipeline(self, model: str, parent: str | None = None) -> TextToImage:
            self._pipelines[model] = pipeline
            return pipeline

    with working(made, Tiny) as loop:
        yield loop


def tiny(seed: int = 7, **fields: Any) -> dict[str, Any]:
    """A body for POST /v1/jobs."""
    return {"request": {"prompt": "a red cat", "seed": seed, "num_steps": 2}, **fields}
