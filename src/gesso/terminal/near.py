"""Words that are nearly right: options and commands by the names of other tools, by their beginning, or misspelled.

A name of another tool that means one option here is that option: `--cfg`, `--num_inference_steps`, `--ckpt`. It stands
in no help text. What could mean several, or needs another value, is an error that names them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gesso.errors import GessoError

if TYPE_CHECKING:
    from gesso.request.fields import Row

MOST = 3  # suggestions in one message
CLOSE = 0.7  # ratio of difflib from which a misspelled word is taken for another
_WORD = re.compile(r"[a-z][a-z0-9_-]+")

# Other names of options that set no field of a request, or a field by a file. Those of fields are in their table.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "model": (
            *("ckpt", "checkpoint", "sd-model", "sd-model-checkpoint", "ckpt-name", "model-id", "model-path"),
            "pretrained-model-name-or-path",
        ),
        "image": ("init-image", "init-img", "input-image"),
        "hires": ("hires-fix", "hr-scale"),
        "sigmas": ("custom-sigmas",),
        "vae": ("vae-path", "vae-name", "sd-vae"),
        "embedding": ("textual-inversion", "embeddings"),
        "control": ("controlnet",),
        "family": ("model-type", "base-model"),
        "prediction": ("prediction-type",),
        "output": ("out", "outdir", "output-dir", "out-dir", "save-path", "output-path"),
        "dtype": ("torch-dtype",),
        "quiet": ("silent",),
        "from": ("from-image", "from-picture"),
        # Of the trainers that people come from: diffusers' scripts and kohya's.
        "train-steps": ("max-train-steps",),
        "learning-rate": ("lr", "unet-lr"),
        "text-rate": ("text-encoder-lr",),
        "batch-size": ("train-batch-size",),
        "accumulation": ("gradient-accumulation-steps",),
        "optimizer": ("optimizer-type",),
        "precision": ("mixed-precision",),
        "rank": ("network-dim", "lora-rank"),
        "alpha": ("network-alpha", "lora-alpha"),
        "conv-rank": ("conv-dim",),
        "min-snr": ("min-snr-gamma", "snr-gamma"),
        "caption": ("instance-prompt",),
        "reg": ("reg-data-dir", "class-data-dir"),
        "class-pictures": ("num-class-images",),
        "prior-weight": ("prior-loss-weight",),
        "sample": ("validation-prompt",),
    }
)
# What is meant by names that are options of no command here, with the words to type.
_SAY: Mapping[str, str] = MappingProxyType(
    {
        "prompt": 'write the prompt without it: {command} "a red car"',
        "batch-size": "--number says how many pictures, --batch how many of them are drawn at once",
        "n-samples": "--number says how many pictures, --batch how many of them are drawn at once",
        "generator": "that is --seed N",
        "force": "that is --overwrite",  # in `generate` it is an option of its own
        "enable-hr": "that is --hires 2, or a size such as --hires 1024x1024",
        "precision": "that is --dtype float32 or --dtype float16",
        "scale": "--guidance is the CFG scale, --hires enlarges",
        "fp16": "that is --dtype float16",
        "half": "that is --dtype float16",
        "bf16": "that is --dtype bfloat16",
        "fp32": "that is --dtype float32",
        "no-half": "that is --dtype float32",
        "full-precision": "that is --dtype float32",
        "cpu": "that is --device cpu",
        "cuda": "that is --device cuda",
        "gpu": "that is --device cuda",
        "use-cpu": "that is --device cpu",
        "medvram": "that is --memory auto",
        "lowvram": "that is --memory auto, or a limit such as --memory 3GiB",
        "xformers": "nothing to switch on: PyTorch's own attention is used",
        "opt-sdp-attention": "nothing to switch on: PyTorch's own attention is used",
        "img2img": "that is --image FILE, with --strength",
        "txt2img": "nothing to switch on: without --image a picture is drawn from the prompt alone",
        "inpaint": "that is --image FILE --mask FILE",
        "plms": "that is --sampler plms",
        "ddim": "that is --sampler ddim",
        "karras": "that is --schedule karras",
        "use-karras-sigmas": "that is --schedule karras",
        "restore-faces": "gesso does not have it",
        "styles-file": "that is --styles FILE",
        "steps": "that is --train-steps",  # where pictures are drawn it is an option of its own
        **dict.fromkeys(
            ("epochs", "max-train-epochs", "num-train-epochs"),
            "--train-steps counts steps; an epoch has as many as there are pictures, divided by --batch-size",
        ),
        **dict.fromkeys(("train-data-dir", "instance-data-dir"), "write the folder without it: {command} photos"),
        **dict.fromkeys(("lr-scheduler", "lr-warmup-steps"), "--warmup and --decay are the shares that rise and fall"),
        **dict.fromkeys(
            ("save-every-n-epochs", "save-every-n-steps", "checkpointing-steps"),
            "--report-every says how often weights are kept and judged",
        ),
        "with-prior-preservation": "--class-prompt draws pictures of the class and trains on them, too",
    }
)
# Words that people try as a command -> the command that is meant.
_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("txt2img", "t2i", "img2img", "draw", "create", "make", "paint", "render", "run"), "generate"),
        **dict.fromkeys(("exif", "png-info", "pnginfo", "settings", "info"), "metadata show"),
        **dict.fromkeys(("xyz", "plot", "xyplot"), "grid"),
        **dict.fromkeys(("enlarge", "hires", "extras"), "upscale"),
        **dict.fromkeys(("checkpoints", "list", "ls"), "models list"),
        **dict.fromkeys(("import", "download", "install"), "models import"),
        **dict.fromkeys(("hints", "annotate"), "preprocess"),
        **dict.fromkeys(("schedulers", "schedules"), "samplers"),
        **dict.fromkeys(("reproduce", "redraw", "repeat"), "replay"),
    }
)


def option_of(param: Any) -> str:
    """The name by which the tables know an option: the first of its long names, without hyphens."""
    return next((name for name in param.opts if name.startswith("--")), param.opts[0]).lstrip("-")


@cache
def _names_of_fields() -> Mapping[str, tuple[str, ...]]:
    """Other names of the options of fields: those of the table that belong to one field alone."""
    from gesso.request.request import ROWS

    owners: dict[str, set[str]] = {}
    for row in ROWS.values():
        if row.path.startswith("conventions."):
            continue
        theirs = [name for names in row.field.tools.values() for name in names]
        same = theirs if row.is_number or row.kind in ("text", "list") else []  # of others the values differ
        for name in (*row.names, *same):
            if _WORD.fullmatch(name := name.replace("_", "-").lower()) and name not in _SAY and row.field.options:
                owners.setdefault(name, set()).add(row.field.options[0])
    taken = {name for row in ROWS.values() for name in row.field.options} | set(_OTHER_NAMES)
    found: dict[str, tuple[str, ...]] = {}
    for name, options in owners.items():
        if len(options) == 1 and name not in taken:
            (option,) = options
            found[option] = (*found.get(option, ()), name)
    return MappingProxyType(found)


@cache
def names_elsewhere() -> Mapping[str, tuple[str, ...]]:
    """Option -> its names in other tools, where they are no option here; all without hyphens before them."""
    of_fields = _names_of_fields()
    options = dict.fromkeys((*_OTHER_NAMES, *of_fields))
    return MappingProxyType({one: (*of_fields.get(one, ()), *_OTHER_NAMES.get(one, ())) for one in options})


def row_of(option: str) -> "Row | None":
    """The row of the field of a request that an option sets.  option: without hyphens before it"""
    return _rows_by_option().get(option)


@cache
def _rows_by_option() -> "Mapping[str, Row]":
    from gesso.request.request import ROWS  # 0.1 s, which `gesso --help` does without

    return MappingProxyType({name: row for row in reversed(list(ROWS.values())) for name in row.field.options})


def other_names(param: Any) -> Iterator[str]:
    """Names under which an option is taken too: those of other tools, and all with underscores."""
    name = option_of(param)
    row = row_of(name)
    declared = row.field.options if row is not None else ()
    elsewhere = names_elsewhere().get(declared[0] if declared else name, ())
    yield from spellings(param, (*declared, *elsewhere))


def spellings(param: Any, more: Sequence[str] = ()) -> Iterator[str]:
    """Names of an option, and `more` of them, as they may be typed, too: with underscores for hyphens."""
    names = [*(one.lstrip("-") for one in param.opts if one.startswith("--")), *more]
    for one in dict.fromkeys(names):
        for spelled in dict.fromkeys((one, one.replace("-", "_"))):
            if f"--{spelled}" not in param.opts:
                yield f"--{spelled}"


# ---- options that do not exist ---------------------------------------------------------------------------------------


def usage_error(message: str, option: str | None = None) -> GessoError:
    """An error about the words of a command line."""
    return GessoError(message, code="usage", field=None if option is None else option.lstrip("-").replace("-", "_"))


def no_such_option(command: str, typed: str, params: Sequence[Any]) -> GessoError:
    """The error for an option that a command lacks.

    command  as typed: "gesso generate"
    params   of the command
    """
    options = {name: name_of(param) for param in params if param.param_type_name == "option" for name in param.opts}
    options |= {"--help": "--help", "-h": "-h"}
    word = typed.lstrip("-").lower().replace("_", "-")
    if words := _say(command, word, options):
        return usage_error(f"no option {typed[:60]}: {words}", typed)
    set_takes = next((param.metavar or "" for param in params if "--set" in param.opts), "")
    from gesso.request.request import NAMED

    field = NAMED.get(word.replace("-", "_"))
    if field is not None and field.is_single and _sets(set_takes, field.path):
        setting = word.replace("-", "_")
        return usage_error(f"no option {typed[:60]} here. Set this field with --set {setting}=VALUE", typed)
    if near := nearest_options(typed, options):
        return usage_error(f"no option {typed[:60]}. Did you mean {_either(near)}?", typed)
    if " " not in command:
        line = f"gesso generate PROMPT {typed[:60]}"
        return usage_error(f"no option {typed[:60]} here. Options follow a command: {line}", typed)
    return usage_error(f"no option {typed[:60]}. `{command} --help` lists the options", typed)


def _sets(metavar: str, path: str) -> bool:
    """Whether a --set of that placeholder sets the field."""
    return metavar == "FIELD=VALUE" or (metavar == "NAME=VALUE" and path.startswith("conventions."))


def _say(command: str, word: str, options: Mapping[str, str]) -> str:
    """The words for a name of another tool, if all options that they name exist here."""
    words = _SAY.get(word, "").format(command=command)
    return words if all(option in options for option in re.findall(r"--[a-z-]+", words)) else ""


def name_of(param: Any) -> str:
    """How messages call an option: by the first of its long names."""
    return f"--{option_of(param)}" if any(name.startswith("--") for name in param.opts) else str(param.opts[0])


def nearest_options(typed: str, options: Mapping[str, str]) -> list[str]:
    """The options that are meant, the likeliest first: by case, by beginning, by abbreviation, else by spelling.

    options  whatever can be typed -> what it is called
    """
    word = typed.lstrip("-").replace("_", "-")
    if not word:
        return []
    if len(word) == 1:
        found = [name for name in (f"-{word}", f"-{word.lower()}", f"-{word.upper()}") if name in options]
        return found[:1]
    word = word.lower()
    long = {name.lstrip("-").replace("_", "-"): shown for name, shown in options.items() if name.startswith("--")}
    ways = (
        [shown for name, shown in long.items() if name.lower() == word],
        [shown for name, shown in long.items() if name.startswith(word)],
        [shown for name, shown in long.items() if word.startswith(f"{name}-") or _abbreviates(word, name)],
        [shown for name, shown in _by_spelling(word, long)],
        [shown for name, shown in long.items() if set(word.split("-")) & set(name.split("-"))],
    )
    return next((list(dict.fromkeys(found))[:MOST] for found in ways if found), [])


def _abbreviates(word: str, name: str) -> bool:
    """ "neg-prompt" for "negative-prompt": each part begins the part of the name in its place."""
    parts, whole = word.split("-"), name.split("-")
    return len(parts) == len(whole) > 1 and all(b.startswith(a) and a for a, b in zip(parts, whole, strict=True))


def _by_spelling(word: str, names: Mapping[str, str]) -> list[tuple[str, str]]:
    near = [(SequenceMatcher(None, word, name).ratio(), name, shown) for name, shown in names.items()]
    best = max((ratio for ratio, *_ in near), default=0.0)
    close = [(name, shown) for ratio, name, shown in sorted(near, reverse=True) if ratio >= max(CLOSE, best - 0.05)]
    return close if len(word) > 2 else []


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# ---- commands that do not exist --------------------------------------------------------------------------------------


def nearest_commands(typed: str, commands: Iterable[str]) -> list[str]:
    """The commands that are meant, the likeliest first: "genrate", "gen", "model", "txt2img"."""
    known, word = list(commands), typed.lower().replace("_", "-")
    ways = (
        [meant for name, meant in _COMMANDS.items() if name == word and meant.split()[0] in known],
        [name for name in known if len(word) > 1 and name.startswith(word)],
        [name for name in known if name.rstrip("s") == word.rstrip("s")],
        [name for name, _ in _by_spelling(word, dict.fromkeys(known, ""))],
    )
    return next((found[:MOST] for found in ways if found), [])


def no_such_command(above: str, typed: str, commands: Sequence[str]) -> GessoError:
    """The error for a command that a group lacks."""
    near = [f"`{above} {name}`" for name in nearest_commands(typed, commands)]
    tail = f"Did you mean {_either(near)}?" if near else f"Commands: {', '.join(commands)}"
    return usage_error(f"`{above}` has no command {typed[:60]!r}. {tail}")
