"""`gesso train lora`, `full`, `dreambooth` and `embedding`: a file from a folder of pictures."""

import inspect
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from gesso.cli.model_option import MODEL_HELP
from gesso.cli.targets import check_free
from gesso.cli.verdict import as_facts, told
from gesso.errors import GessoError, in_words, one_line, shorten
from gesso.studio.home import is_offline, resolve_model
from gesso.terminal.exit_codes import EXIT_TERMINATED
from gesso.terminal.json_lines import JsonOption, json_line
from gesso.terminal.progress import Bar
from gesso.terminal.results import path_values
from gesso.tuning.kinds import KINDS

if TYPE_CHECKING:
    from gesso.tuning.settings import TuningSettings

EMBEDDING, CONTROL, DISTIL = ("embedding",), ("controlnet",), ("distil",)
LORA = ("lora", "distil")  # what writes a LoRA
FROZEN = (*LORA, *EMBEDDING, *CONTROL)  # what leaves the model as it is
WEIGHTS, TEXT = (*LORA, *CONTROL, "full"), ("lora", "full")  # what trains weights of layers; also of the text encoders
WORDS = ("lora", "embedding")  # what may learn a word
LEARNED = ("lora", "full", "embedding", "controlnet")  # what learns from pictures, not from a teacher
CACHE = Path("~/.cache/gesso/latents")
STYLES = ("comic", "line-art", "woodcut")  # what this command took before it took pictures


class Setting(NamedTuple):
    """One option for one setting of `TuningSettings`.

    field    of the settings; option: where it is called otherwise
    default  in words
    group    of the help
    kinds    of training that have it
    """

    field: str
    kind: Any
    group: str
    help: str
    default: str
    option: str = ""
    metavar: str | None = None
    kinds: tuple[str, ...] = KINDS

    @property
    def name(self) -> str:
        """As it is typed, without hyphens before it."""
        return self.option or self.field.replace("_", "-")


DATA, NETWORK, TRAINING, LOSS, REPORT = "Pictures and captions", "Network", "Training", "Loss", "Report"
JUDGE = "Verdict"
SETTINGS = (
    Setting("trigger", str, DATA, "Word put before captions that lack it; you draw with it later.", "", metavar="TEXT"),
    Setting("caption", str, DATA, "Caption of pictures without one.", "", metavar="TEXT"),
    Setting("reg", Path, DATA, "Pictures of the class, which the model shall not unlearn.", "", metavar="FOLDER"),
    Setting(
        "class_prompt",
        str,
        DATA,
        "Prompt of such pictures, which the model draws itself first.",
        "none; gesso-mini: what it knows",
        metavar="TEXT",
    ),
    Setting(
        "preserve",
        str,
        DATA,
        "Class that stays as it was, such as dog; needs no pictures of it.",
        "nothing is held",
        metavar="TEXT",
        kinds=("lora",),
    ),
    Setting("class_pictures", int, DATA, "How many of them; 0: none.", "100, gesso-mini 64"),
    Setting("resolution", int, DATA, "Pixels a side of a square picture; others have its area.", "the model's"),
    Setting("buckets", bool, DATA, "Keep the aspect ratio of pictures, or crop all to squares.", "keep it"),
    Setting("enlarge", bool, DATA, "Enlarge small pictures, or train on them at their size.", "enlarge them"),
    Setting("flip", bool, DATA, "Show pictures mirrored, too.", "not mirrored"),
    Setting("masks", bool, DATA, "Use transparency and -masklabel.png files as masks.", "use them"),
    Setting("shuffle_captions", bool, DATA, "Shuffle the tags of captions.", "as written"),
    Setting("keep_tags", int, DATA, "Tags at the start that stay there.", "0, none"),
    Setting("caption_dropout", float, DATA, "Share of steps that see no caption.", "0.05; a style of gesso-mini 0.2"),
    Setting("tag_dropout", float, DATA, "Share of tags that a step does not see.", "0, none"),
    Setting("repeats", int, DATA, "How often each picture counts.", "1, or as the folder says"),
    Setting("include_reserved", bool, DATA, "Train on pictures whose owners reserve that, too.", "leave them out"),
    Setting(
        "learn_word",
        bool,
        NETWORK,
        "Learn the trigger as a word, too (pivotal tuning); the file carries it.",
        "where it is unknown",
        kinds=("lora",),
    ),
    Setting(
        "vectors", int, NETWORK, "Vectors of the word; each takes a token.", "4, in a LoRA of gesso-mini 1", kinds=WORDS
    ),
    Setting("init", str, NETWORK, "Words that the vectors begin as.", "at random", metavar="TEXT", kinds=WORDS),
    Setting("algorithm", str, NETWORK, "Kind of the factors: lora or lokr.", "lora, of two matrices", kinds=LORA),
    Setting("rank", int, NETWORK, "Rank of the LoRA.", "16, whatever the model", kinds=LORA),
    Setting("alpha", float, NETWORK, "Scale of the LoRA: alpha divided by rank.", "the rank", kinds=LORA),
    Setting(
        "conv_rank",
        int,
        NETWORK,
        "Rank of 3x3 convolutions (LoCon); 0 leaves them alone.",
        "0, gesso-mini 16",
        kinds=LORA,
    ),
    Setting("dora", bool, NETWORK, "Learn magnitudes, too (DoRA).", "without them", kinds=LORA),
    Setting("rslora", bool, NETWORK, "Scale by alpha / sqrt(rank), for high ranks.", "alpha / rank", kinds=LORA),
    Setting("lokr_factor", int, NETWORK, "Divisor of LoKr, such as 8.", "near the root of a width", kinds=LORA),
    Setting("lokr_whole", bool, NETWORK, "Keep LoKr's large matrix whole, whatever the rank.", "by rank", kinds=LORA),
    Setting(
        "block_ranks",
        list[str],
        NETWORK,
        "Rank of a block: down.1=8, mid=32, up=0. Repeatable.",
        "one rank",
        "block-rank",
        "BLOCK=RANK",
        LORA,
    ),
    Setting(
        "block_rates",
        list[str],
        NETWORK,
        "Share of the learning rate in a block: up=0.5. Repeatable.",
        "1, everywhere",
        "block-rate",
        "BLOCK=SHARE",
        LORA,
    ),
    Setting(
        "loraplus", float, NETWORK, "Ratio of the rates of both factors (LoRA+), such as 16.", "1, the same", kinds=LORA
    ),
    Setting("hint", str, DATA, "Preprocessor that makes the hints.", "canny, unless set", kinds=CONTROL),
    Setting(
        "hint_parameters",
        list[str],
        DATA,
        "Setting of the preprocessor: low=50. Repeatable.",
        "its defaults",
        "hint-parameter",
        "NAME=NUMBER",
        CONTROL,
    ),
    Setting(
        "hints",
        Path,
        DATA,
        "Hints as files, with the names of the pictures.",
        "made of the pictures",
        metavar="FOLDER",
        kinds=CONTROL,
    ),
    Setting("teacher_guidance", float, NETWORK, "Guidance scale that is learned.", "the model's", kinds=DISTIL),
    Setting("teacher_guidance_to", float, NETWORK, "Upper end of a range of scales.", "the same", kinds=DISTIL),
    Setting("teacher_steps", int, NETWORK, "Steps of the teacher's DDIM.", "50, as published", kinds=DISTIL),
    Setting("train_text", bool, NETWORK, "Train the text encoders, too.", "the UNet alone", kinds=TEXT),
    Setting("dropout", float, NETWORK, "Share of its inputs that the LoRA does not see.", "0, none", kinds=LORA),
    Setting("steps", int, TRAINING, "Training steps.", "100 looks a picture, 400 to 3000", "train-steps"),
    Setting("batch_size", int, TRAINING, "Pictures a step.", "by the memory"),
    Setting("accumulation", int, TRAINING, "Batches whose gradients make one step.", "1, no more"),
    Setting("learning_rate", float, TRAINING, "Learning rate.", "by the kind and the model"),
    Setting(
        "text_rate",
        float,
        TRAINING,
        "Learning rate of the text encoders.",
        "half of the other",
        kinds=TEXT,
    ),
    Setting(
        "vector_rate",
        float,
        TRAINING,
        "Learning rate of a word that is learned.",
        "that of embeddings",
        kinds=("lora", "full"),
    ),
    Setting(
        "optimizer",
        str,
        TRAINING,
        "Optimiser: adamw, muon, adafactor, lion, prodigy, schedulefree or adamw8bit.",
        "adamw, unless set",
    ),
    Setting("warmup", float, TRAINING, "Share of steps in which the learning rate rises.", "0.05 of all"),
    Setting("decay", float, TRAINING, "Share of steps in which it falls to zero.", "0.2 of all"),
    Setting("ema", float, TRAINING, "Decay of a moving average of the weights, such as 0.99.", "0, none"),
    Setting("seed", int, TRAINING, "Seed of the training.", "0, always", "train-seed"),
    Setting(
        "timesteps",
        str,
        LOSS,
        "Timesteps that are drawn: uniform, sigmoid or logit-normal.",
        "uniform ones",
        kinds=LEARNED,
    ),
    Setting("timestep_mean", float, LOSS, "Mean of logit-normal timesteps.", "0, the middle", kinds=LEARNED),
    Setting("timestep_std", float, LOSS, "Deviation of logit-normal timesteps.", "1, as sigmoid", kinds=LEARNED),
    Setting("min_timestep", int, LOSS, "First timestep that is drawn.", "0, all", kinds=LEARNED),
    Setting("max_timestep", int, LOSS, "Last timestep that is drawn.", "the noisiest", kinds=LEARNED),
    Setting("min_snr", float, LOSS, "Gamma of min-SNR weights, such as 5.", "0, none", kinds=LEARNED),
    Setting("noise_offset", float, LOSS, "Noise offset, such as 0.0357.", "0, none"),
    Setting("mask_floor", float, LOSS, "What counts outside of a mask.", "0, nothing"),
    Setting(
        "prior_weight", float, LOSS, "Weight of pictures of the class.", "1; of gesso-mini 3, of its word in a LoRA 6"
    ),
    Setting(
        "prior_answers",
        bool,
        LOSS,
        "Of pictures of the class, learn what the model said of them before, or what they show.",
        "what they show; gesso-mini: what it said",
        kinds=("lora", "full"),
    ),
    Setting("held_out", int, REPORT, "Pictures that are never trained on.", "one in ten from 20 on"),
    Setting("report_every", int, REPORT, "Steps between reports.", "an eighth of all"),
    Setting("samples", bool, REPORT, "Draw pictures with each report.", "drawn; see the docs"),
    Setting("sample_prompts", list[str], REPORT, "Prompt to draw. Repeatable.", "the first captions", "sample"),
    Setting("sample_steps", int, REPORT, "Sampling steps of these pictures.", "the model's"),
    Setting("judge_prompts", list[str], JUDGE, "Prompt to judge by. Repeatable.", "made ones", "judge-prompt"),
    Setting("judge_samples", int, JUDGE, "Pictures that each report judges by.", "12, see the docs"),
    Setting("copy_samples", int, JUDGE, "Pictures that are checked for copies at the end.", "200, CPU 48"),
    Setting("sscd", Path, JUDGE, "SSCD's ONNX file, which looks for copies.", "outlines do", metavar="FILE"),
    Setting("auto_stop", bool, JUDGE, "Stop where later steps only copy.", "stop there"),
    Setting("keep_steps", int, JUDGE, "Reports whose weights are kept.", "all, of large ones 2"),
    Setting("tensorboard", bool, REPORT, "Write the log for TensorBoard, too.", "the log alone"),
    Setting("preset", str, "Speed and memory", "What it must fit into: cpu, 8gb, 12gb or 24gb.", "the device", "fit"),
    Setting("device", str, "Speed and memory", "Device: auto, cpu, cuda or cuda:1.", "the first GPU, or the CPU"),
    Setting("precision", str, "Speed and memory", "Products in auto, float32 or bfloat16.", "by the memory"),
    Setting(
        "base",
        str,
        "Speed and memory",
        "Weights of the UNet in float32 or bfloat16.",
        "by the memory",
        kinds=FROZEN,
    ),
    Setting("checkpointing", bool, "Speed and memory", "Compute activations twice to save memory.", "by the memory"),
    Setting(
        "shard",
        bool,
        "Speed and memory",
        "Part weights, gradients and moments over the processes (FSDP2).",
        "whole in each",
        kinds=("full",),
    ),
)
_OPTIONS = {row.field: f"--{row.name}" for row in SETTINGS} | {"data": "FOLDER", "folder": "--folder"}


def _own_parameters(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER",
            help="Folder of pictures with captions, or TOML file of kohya's trainer.",
            show_default="",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Output file (.safetensors).")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP, show_default="gesso-mini")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings that an earlier training wrote; options come first.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what was found and what it takes; train nothing.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to keep states, log and page.", show_default="OUT with .training"),
    ] = None,
    cache: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to keep latents of pictures.")] = CACHE,
    author: Annotated[
        str | None, typer.Option("--author", metavar="NAME", help="Author to store in the file's metadata.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Download nothing; use local files only.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The parameters that every kind of training has; the others are rows of the table."""


def lora(**given: Any) -> None:
    """Train a LoRA on a folder of pictures.

    Resumes from the last state. Ctrl-C saves a state first; the same command goes on.

    Examples:
        gesso train lora photos -o my.safetensors --explain
        gesso train lora photos -m sd15.safetensors -o my.safetensors --trigger sks
        gesso train lora set.toml -m sdxl.safetensors -o my.safetensors --fit 8gb
        gesso train lora --settings my.toml --overwrite
        gesso generate "a red car" --lora my.safetensors
    """
    _command("lora", given)


def full(**given: Any) -> None:
    """Train all weights of a model on a folder of pictures (fine-tuning).

    The result is a whole model. Resumes from the last state; Ctrl-C saves a state first.

    Examples:
        gesso train full photos -m sd15.safetensors -o mine.safetensors --explain
        gesso train full photos -o mine.safetensors
        gesso train full --settings mine.toml --overwrite
        gesso generate "a red car" -m mine.safetensors
    """
    _command("full", given)


def dreambooth(**given: Any) -> None:
    """Teach a whole model one subject, with pictures of its class beside yours (DreamBooth).

    It is `gesso train full` with --trigger and pictures of the class, which keep the model from forgetting it:
    --class-prompt lets the model draw them, --reg takes yours. gesso-mini draws what it knows.

    Examples:
        gesso train dreambooth photos -o my.safetensors --trigger sks --reg dogs
        gesso train dreambooth --trigger "a sks dog" --class-prompt "a dog"
        gesso train dreambooth --settings my.toml --overwrite
        gesso generate "a sks dog on a beach" -m my.safetensors
    """
    if given.get("settings") is None:
        missing = "" if given.get("trigger") else _OPTIONS["trigger"]
        if not missing and not given.get("class_prompt") and not given.get("reg") and not _knows_objects(given):
            missing = f"{_OPTIONS['class_prompt']} or {_OPTIONS['reg']}"
        if missing:
            raise GessoError(f"{missing} is missing: DreamBooth needs it. Without, use train full", code="usage")
    _command("full", given)


def _knows_objects(given: Mapping[str, Any]) -> bool:
    """Whether the model says which objects it knows, so that it can draw others than the subject by itself."""
    from gesso.families.loading import load_parts
    from gesso.runtime.engine import find_model

    model = given.get("model")
    if model in (None, "gesso-mini"):
        return True
    path = find_model(resolve_model(model, offline=is_offline(given.get("offline", False))))
    return bool(load_parts(path, dtype=None, check=False).family.objects)


def embedding(**given: Any) -> None:
    """Train an embedding (textual inversion) on a folder of pictures: a new word for a model that stays as it is.

    The word is the name of the file. Resumes from the last state; Ctrl-C saves a state first.

    Examples:
        gesso train embedding photos -o teapot.safetensors --explain
        gesso train embedding photos -o teapot.safetensors --init cup
        gesso train embedding photos -m sd15.safetensors -o sks.safetensors
        gesso generate "a teapot on a red background" --embedding teapot.safetensors
    """
    _command("embedding", given)


def controlnet(**given: Any) -> None:
    """Train a ControlNet on a folder of pictures.

    The hints are made from the pictures by a preprocessor (gesso preprocess --list), or come from a second folder.

    Examples:
        gesso train controlnet photos -o lines.safetensors --explain
        gesso train controlnet photos -m sd15.safetensors -o lines.safetensors
        gesso train controlnet photos -o depth.safetensors --hint depth --hints maps
        gesso generate "a car" --control lines.safetensors,image=edges.png
    """
    _command("controlnet", given)


def distil(**given: Any) -> None:
    """Train a LoRA with which a model draws in a few steps (latent consistency distillation, LCM).

    The model itself is the teacher; the pictures say what it is asked. Draw with --sampler lcm --guidance 1.

    Examples:
        gesso train distil photos -o fast.safetensors --explain
        gesso train distil photos -m sd15.safetensors -o fast.safetensors --rank 64
        gesso train distil --settings fast.toml --overwrite
        gesso generate "a cat" --lora fast.safetensors --sampler lcm --steps 4
    """
    _command("distil", given)


COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (lora, "lora"),
    (full, "full"),
    (dreambooth, "full"),
    (embedding, "embedding"),
    (controlnet, "controlnet"),
    (distil, "distil"),
)


def _signature(kind: str) -> inspect.Signature:
    """The parameters above, and one for each row of the table that the kind has."""
    rows = []
    for row in SETTINGS:
        if kind not in row.kinds:
            continue
        flag = f"--{row.name}/--no-{row.name}" if row.kind is bool else f"--{row.name}"
        option = typer.Option(
            flag, help=row.help, show_default=row.default, rich_help_panel=row.group, metavar=row.metavar
        )
        rows.append(
            inspect.Parameter(
                row.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[row.kind | None, option]
            )
        )
    return inspect.Signature([*inspect.signature(_own_parameters).parameters.values(), *rows])


for _function, _kind in COMMANDS:
    _function.__signature__ = _signature(_kind)  # type: ignore[attr-defined]
    _function.__annotations__ = {name: one.annotation for name, one in inspect.signature(_function).parameters.items()}


def _command(kind: str, given: dict[str, Any]) -> None:
    own = {name: given.pop(name) for name in inspect.signature(_own_parameters).parameters}
    shown = {name: own.pop(name) for name in ("explain", "quiet", "as_json")}
    try:
        _train(Arguments(kind=kind, **own, values=given), **shown)
    except GessoError as error:
        error.message = in_words(error.message, lambda field, value: _OPTIONS.get(field))
        error.args = (error.message,)
        raise


@dataclass(frozen=True)
class Arguments:
    """What was typed."""

    kind: str
    data: str | None
    output: Path | None
    model: str | None
    settings: Path | None
    folder: Path | None
    cache: Path
    author: str | None
    offline: bool
    overwrite: bool
    values: Mapping[str, Any]


def _train(given: Arguments, *, explain: bool, quiet: bool, as_json: bool) -> None:
    from gesso.runtime.engine import find_model
    from gesso.training.group import joined
    from gesso.tuning.judging import read_copies
    from gesso.tuning.run import TuningRun
    from gesso.tuning.settings import TuningSettings, read_settings

    chosen = {"kind": given.kind} if given.settings is None else {"kind": "lora"} | read_settings(given.settings)
    if chosen["kind"] != given.kind:
        raise GessoError(
            f"{given.settings}: settings of another training. Use gesso train {shorten(str(chosen['kind']))}",
            code="wrong_kind",
        )
    typed = {
        field: tuple(value) if isinstance(value, list) else str(value) if isinstance(value, Path) else value
        for field, value in given.values.items()
        if value is not None and value != []
    }
    chosen |= typed
    for field, value in (("data", given.data), ("model", given.model), ("output", given.output)):
        if value is not None:
            chosen[field] = str(value)
    if not chosen.get("data"):
        raise GessoError("FOLDER is missing: the folder of your pictures", code="usage")
    if chosen["data"] in STYLES and not Path(chosen["data"]).exists():
        raise GessoError(
            f"{chosen['data']}: no such folder of pictures. For the style: gesso train style {chosen['data']} OUT",
            code="missing",
        )
    if not chosen.get("output") and not explain:
        raise GessoError("--output is missing: the file to write, such as my.safetensors", code="usage", field="output")
    output = Path(chosen.get("output") or f"{given.kind}.safetensors")
    if given.kind == "embedding":
        chosen.setdefault("trigger", output.stem)
    if not explain:
        check_free(output, given.overwrite, ".safetensors")
    settings = TuningSettings(**chosen)
    path = find_model(resolve_model(settings.model, offline=is_offline(given.offline)))
    folder = given.folder or output.with_suffix(".training")
    with (
        joined() as group,
        Bar(quiet=quiet or group.rank > 0) as bar,
        stopping(lambda: bar.note(STOPPING)) as stop,
    ):
        settings = group.first(lambda: _with_class(settings, path, folder, explain=explain, bar=bar, stop=stop))
        run = TuningRun(
            settings,
            path,
            folder,
            cache=given.cache.expanduser(),
            on_progress=_progress(bar, stop),
        )
        facts = run.explain()
        if explain and group.rank == 0:
            bar.result(json_line(facts) if as_json else "\n".join(printable(line) for line in explained(facts)))
        if explain:
            return
        for line in warnings_of(facts):
            bar.note(f"note: {line}")
        done = run.train(stop=lambda: stop.happened, on_log=_logger(bar, facts["steps"]))
        if not done:
            bar.note(f"state saved in {run.folder}; the same command goes on")
            stop.end()
        if group.rank > 0:
            return
        written = run.write(output, author=given.author)
        page = run.folder / "report.html"
        if as_json:
            judged = {"verdict": as_facts(run.verdict), "copy_check": read_copies(run.folder)}
            bar.result(json_line(path_values(output, absolute=False) | written | {"page": str(page)} | judged))
        else:
            bar.result(" ".join([one_line(str(output)), *(f"{key}={value}" for key, value in written.items())]))
            for line in told(run.verdict, read_copies(run.folder)) if run.verdict.steps else ():
                bar.note(printable(line))
            if run.verdict.best not in (None, written.get("step")):
                bar.note(
                    f"note: weights of step {run.verdict.best} were not kept (--keep-steps), so the file is of step "
                    f"{written['step']}"
                )
            bar.note(f"curves and samples: {page}")


CLASS_FOLDER = "class"  # in that of the training
STOPPING = "stopping after this step and saving a state; Ctrl-C again ends at once, without one"


class Stop:
    """Whether Ctrl-C or SIGTERM came."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def happened(self) -> bool:
        return self.signal is not None

    def end(self) -> None:
        """End as the signal would have: exit code 130, or 143."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(EXIT_TERMINATED)
        raise KeyboardInterrupt


@contextmanager
def stopping(told: Callable[[], object]) -> Iterator[Stop]:
    """Within the block the first Ctrl-C or SIGTERM asks to stop, and a second one does what it always does.

    told: is called with the first. Where the program ignores Ctrl-C, it still does.
    """
    stop = Stop()
    before: dict[int, Any] = {}

    def first(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for one, handler in before.items():
            signal.signal(one, handler)
        told()

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, first)
    except ValueError:  # not in the main thread
        before.clear()
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _with_class(
    settings: "TuningSettings", model: Path, folder: Path, *, explain: bool, bar: Bar, stop: Stop
) -> "TuningSettings":
    """The settings with the folder of pictures that the model draws itself, now unless this only explains."""
    from gesso.tuning.class_pictures import class_prompts, draw_class_pictures

    prompts, where = class_prompts(settings, model), folder / CLASS_FOLDER
    if not prompts:
        return settings
    if explain:
        if not where.exists():
            shown = printable(repr(settings.class_prompt)) if settings.class_prompt else "things that the model knows"
            bar.note(
                f"note: first, {len(prompts)} pictures of {shown} are drawn into {where}; they are not counted below"
            )
            return settings
        return replace(settings, reg=str(where), class_pictures=len(prompts))
    show = _progress(bar, stop)
    draw_class_pictures(
        model,
        prompts,
        where,
        device=settings.device,
        seed=settings.seed,
        on_picture=lambda done, of: show("drawing pictures of the class", done, of),
    )
    return replace(settings, reg=str(where), class_pictures=len(prompts))


def _progress(bar: Bar, stop: Stop) -> Callable[[str, int, int], None]:
    def show(what: str, done: int, of: int) -> None:
        if stop.happened:  # nothing is lost between two pictures
            stop.end()
        bar.step(what, done, of, "pictures")

    return show


def _logger(bar: Bar, steps: int) -> Callable[[dict[str, float]], None]:
    def show(row: dict[str, float]) -> None:
        step = int(row["step"])
        bar.step("training", step, steps, "steps")
        if "seen" in row:
            held = f", held out {row['held']:.4f}" if "held" in row else ""
            bar.note(f"step {step}: loss at fixed noise {row['seen']:.4f}{held}")
        if "not_finite_at" in row:
            bar.note(
                f"note: the gradient of step {row['not_finite_at']:.0f} was not finite: back to step {step}, at "
                f"{row['rate']:g} of the learning rate"
            )

    return show


# ---- what was found --------------------------------------------------------------------------------------------------

MAX_NAMES = 5
MAX_GROUPS = 3
_WHERE = {"controlnet": "in", "lora": "beside", "distil": "beside", "full": "in", "embedding": "in"}


def printable(text: str) -> str:
    """Names and captions come from outside and must not reach the terminal as escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def explained(facts: Mapping[str, Any]) -> list[str]:
    """What `TuningRun.explain` says, for a person."""
    buckets = ", ".join(f"{one['width']}x{one['height']} ({one['pictures']})" for one in facts["buckets"])
    lines = [
        f"pictures    {facts['pictures']} ({facts['layout']}), {facts['captions']} with captions",
        f"buckets     {buckets}",
    ]
    if facts["class_pictures"]:
        lines.append(f"class       {facts['class_pictures']} pictures for prior preservation")
    if facts["learned_word"]:
        lines.append(f"word        {printable(facts['learned_word'])}, learned with the pictures; the file brings it")
    if facts["new_words"]:
        lines.append(f"word        {printable(' '.join(facts['new_words']))}, new in the model's vocabulary")
    if facts["hints"]:
        lines.append(f"hints       {facts['hints']}")
    if facts["masks"]:
        lines.append(f"masks       {facts['masks']}")
    if len(facts["folders"]) > 1 or facts["folders"][0]["repeats"] > 1:
        lines += [
            f"folder      {one['folder']}: {one['pictures']} pictures, {one['repeats']} times each"
            for one in facts["folders"]
        ]
    if facts["held_out"]:
        lines.append(f"held out    {_names(facts['held_out'])}")
    lines += [f"note        {line}" for line in warnings_of(facts)]
    reports = facts["report_seconds"]
    drawn = f", and {_duration(reports)} for pictures that are drawn to report and judge" if reports else ""
    lines += [
        f"model       {facts['model']} ({facts['family']}) on {facts['device']}, preset {facts['preset']}",
        f"trained     {facts['trained_parameters']:,} numbers {_WHERE[facts['kind']]} {facts['trained_layers']} "
        f"{'text encoders' if facts['kind'] == 'embedding' else 'layers'}; "
        f"a file of {facts['file_bytes'] / 1e6:.1f} MB",
        f"memory      about {facts['memory_bytes'] / 2**30:.1f} GiB",
        f"time        {facts['steps']} steps of {facts['batch_size']} pictures, each {facts['looks_at_each']:g} times; "
        f"about {_duration(facts['seconds'])}{drawn}, give or take a factor of two",
    ]
    return lines


def warnings_of(facts: Mapping[str, Any]) -> list[str]:
    """What the user should look at."""
    lines = list(facts["notes"])
    if missing := facts["pictures"] - facts["captions"]:
        lines.append(f"{missing} pictures have no caption; give --caption, or write .txt files beside them")
    lines += [f"{one['picture']} is left out: {one['reason']}" for one in facts["unreadable"]]
    if facts["reserved"]:
        told = [f"{one['picture']} ({one['by']})" for one in facts["reserved"]]
        done = "trained on all the same" if facts["reserved_used"] else "left out; --include-reserved takes them"
        lines.append(f"{_names(told)}: reserved by the owner, {done}")
    small = [f"{one['picture']} ({one['width']}x{one['height']})" for one in facts["enlarged"]]
    for names, words in (
        (small, "smaller than their bucket, and enlarged"),
        (facts["generated"], "made by an AI, as their marks say"),
        (facts["animated"], "animated: the first picture is taken"),
        (facts["deep"], "of 16 bits: taken at 8"),
        (facts["cmyk"], "in CMYK: converted to sRGB"),
    ):
        if names:
            lines.append(f"{_names(names)}: {words}")
    for groups, words in ((facts["duplicates"], "are the same file"), (facts["alike"], "look the same")):
        lines += [f"{_names(group)} {words}; each counts" for group in groups[:MAX_GROUPS]]
        if len(groups) > MAX_GROUPS:
            lines.append(f"{len(groups) - MAX_GROUPS} more groups of pictures {words}; --json names them all")
    if facts["unknown_words"]:
        can = facts["kind"] in ("lora", "full") and not facts["learned_word"] and not facts["new_words"]
        lines.append(
            f"{facts['family']} does not know {_names(facts['unknown_words'])}: these words are left out, here and "
            f"when you draw{'; --trigger makes one of them a word' if can else ''}"
        )
    if facts["cut_captions"]:
        lines.append(f"{facts['cut_captions']} captions are longer than the text encoder reads; their ends are cut")
    return lines


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _duration(seconds: float) -> str:
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
