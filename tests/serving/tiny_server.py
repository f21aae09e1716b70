"""`gesso serve` with a worker process whose model is a random tiny one.

python -m serving.tiny_server FOLDER {"setting": value, ...}      prints its address
"""

import json
import sys
from functools import partial
from pathlib import Path


def serve(folder: str, settings: str) -> None:
    from gesso.api import keeping
    from gesso.server import run
    from gesso.serving.options import WorkerOptions
    from gesso.serving.settings import ServeSettings
    from gesso.serving.supervisor import ChildProcess, Supervisor

    def launch(name: str, options: WorkerOptions) -> ChildProcess:
        return ChildProcess([sys.executable, "-m", "serving.tiny_server", "--work", folder, name], options)

    run.Supervisor = partial(Supervisor, launch=launch)  # type: ignore[misc,assignment]
    made = ServeSettings(home=Path(folder), port=0, device="cpu", threads=1, **json.loads(settings))
    keeping.SWEEP_SECONDS = 20.0  # a day is short here
    assert "torch" not in sys.modules, "the server's memory is to be that of a server"
    run.serve(made, lambda address: print(address, flush=True))


def work(folder: str, name: str) -> None:
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.runtime.engine import Engine
    from gesso.serving import worker
    from tiny_models import save_tiny_mini

    path = Path(folder) / "tiny.safetensors"
    if not path.exists():
        save_tiny_mini(path)
    engine = Engine("cpu")
    pipeline = TextToImage(engine, engine.load(str(path)))

    def open_it(self: worker.WorkerLoop, model: str, parent: str | None = None) -> TextToImage:
        self._pipelines[model] = pipeline
        return pipeline

    worker.WorkerLoop._pipeline = open_it  # type: ignore[method-assign]
    sys.argv[1:] = [name]
    worker.main()


if __name__ == "__main__":
    if sys.argv[1] == "--work":
        work(*sys.argv[2:])
    else:
        serve(*sys.argv[1:])
