"""`gesso train ray`: a training in processes of a Ray cluster, which are started again when one of them dies."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from gesso.cli import tune
from gesso.errors import GessoError, shorten
from gesso.extras import import_extra, missing_extra
from gesso.terminal.exit_codes import EXIT_FAILED
from gesso.terminal.help import HELP_OPTIONS

# What stands behind the first word is read by the training in each process.
UNREAD = {"allow_interspersed_args": False, "ignore_unknown_options": True, "help_option_names": list(HELP_OPTIONS)}


def ray_train(
    training: Annotated[
        list[str],
        typer.Argument(metavar="TRAINING", help="The training as it is typed after `gesso train`, with its options."),
    ],
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that train together.")] = 2,
    gpus: Annotated[bool, typer.Option("--gpus", help="Give each process a GPU.")] = False,
    restarts: Annotated[
        int, typer.Option(min=-1, help="Start the processes again so many times after one of them died; -1: always.")
    ] = 3,
) -> None:
    """Train on a Ray cluster, or in a Ray of its own on this machine where there is none (RAY_ADDRESS says which).

    All machines of the cluster see the same files under the same names, and have gesso. Options of this command stand
    before the training, its own behind it. A process that dies, or whose machine goes, ends the others, and all go on
    from the last state.

    Examples:
        gesso train ray lora photos -o my.safetensors
        gesso train ray --workers 4 --gpus lora photos -o my.safetensors
        gesso train ray --gpus dreambooth photos -o dog.safetensors
        gesso train ray --restarts -1 full photos -o mine.safetensors --shard
    """
    names = [command.__name__ for command, _ in tune.COMMANDS]
    if training[0] not in names:
        raise GessoError(
            f"{shorten(training[0])}: no training of several processes. Expected one of {', '.join(names)}",
            code="usage",
        )
    code = _fit(training, workers=workers, gpus=gpus, restarts=restarts)
    if code:
        raise SystemExit(code)


def _fit(training: Sequence[str], *, workers: int, gpus: bool, restarts: int) -> int:
    """The exit code of the first process. Raises GessoError where Ray is missing or too small, or gave up."""
    try:
        ray = import_extra("ray")
        train, torch_train = import_extra("ray.train"), import_extra("ray.train.torch")
    except ImportError as error:
        raise missing_extra("gesso train ray", "ray", "ray", error) from None
    from gesso.training.group import LONGEST_WAIT

    ray.init(log_to_driver=True, logging_level="WARNING")
    try:
        kind = "GPU" if gpus else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        if there < workers:  # Ray would wait for more of them
            raise GessoError(f"--workers {workers}: Ray has {there} {kind}s", code="invalid_value", field="workers")
        ending = ray.remote(num_cpus=0)(_Ending).remote()
        with TemporaryDirectory() as storage:  # gesso keeps the states itself
            trainer = torch_train.TorchTrainer(
                _work,
                train_loop_config={"training": list(training), "folder": str(Path.cwd()), "ending": ending},
                torch_config=torch_train.TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=int(LONGEST_WAIT.total_seconds())
                ),
                scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=gpus),
                run_config=train.RunConfig(
                    storage_path=storage, failure_config=train.FailureConfig(max_failures=restarts)
                ),
            )
            try:
                trainer.fit()
            except train.TrainingFailedError as error:
                _say_why(error)
                return EXIT_FAILED
        code, results = ray.get(ending.told.remote())
        print(results, end="", flush=True)
        return int(code)
    finally:
        ray.shutdown()


class _Ending:
    """An actor that keeps exit code and results of the first process: Ray itself keeps those of checkpoints alone."""

    def __init__(self) -> None:
        self._ending = (0, "")

    def put(self, code: int, results: str) -> None:
        self._ending = code, results

    def told(self) -> tuple[int, str]:
        return self._ending


def _work(given: Mapping[str, Any]) -> None:
    """One process: the command, whose processes Ray has joined.

    Wrong input stays wrong: it ends the training with its exit code. What else is raised, as where another process has
    died, leads to Ray, which tries again.
    """
    from gesso.cli.app import run_app
    from gesso.terminal.explaining import explain

    os.chdir(given["folder"])
    results = io.StringIO()
    with redirect_stdout(results):  # Ray brings lines when it likes, and those of a process that ends perhaps never
        try:
            code = run_app(["train", *given["training"]], "train")
        except GessoError as error:
            code = explain(error)
    if os.environ["RANK"] == "0":
        import_extra("ray").get(given["ending"].put.remote(code, results.getvalue()))


def _say_why(error: Exception) -> None:
    """The last line of an error, and of each that a process ended with."""
    for one in (error, *getattr(error, "worker_failures", {}).values()):
        lines = [line.strip() for line in str(one).splitlines() if line.strip()]
        typer.echo(f"error: {shorten(lines[-1] if lines else type(one).__name__)}", err=True)
