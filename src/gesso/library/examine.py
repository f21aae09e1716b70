"""Identifies a file or a diffusers folder by its header: the facts that the index keeps. Reads no weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gesso.errors import GessoError
from gesso.library.containers import PYTORCH, container
from gesso.library.entry import ModelFile
from gesso.library.folders import MODEL_INDEX

if TYPE_CHECKING:
    from gesso.checkpoints.detect import Description

MAX_METADATA = 64 * 1024  # characters that the index keeps of one file
_LAYOUTS_OF_MODELS = ("native", "ldm", "diffusers")
# Words of `detect.Kind.what` -> kind, the first that fits.
_WORDS: tuple[tuple[str, str], ...] = (
    ("ControlNet", "controlnet"),
    ("Control-LoRA", "controlnet"),
    ("T2I-Adapter", "t2i_adapter"),
    ("IP-Adapter", "ip_adapter"),
    ("LoRA", "lora"),
    ("LyCORIS", "lora"),
    ("embedding", "embedding"),
    ("TAESD", "taesd"),
    ("tiny autoencoder", "taesd"),
    ("VAE alone", "vae"),
    ("UNet of a diffusers folder", "unet"),
    ("UNet without", "unet"),
    ("text encoder alone", "text_encoder"),
    ("upscaler network", "upscaler"),
    ("upscaler of", "checkpoint"),  # SD x4 is a whole model
)
# What a header can hardly tell apart is believed from the folder.
_BY_FOLDER = ("upscaler", "taesd", "clip_vision", "hypernetwork")
UNKNOWN = "no model that gesso knows"  # in `detect.Kind.what`; a test compares them


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The fields of the same names in `LibraryEntry`."""

    kind: str
    family: str | None
    layout: str
    what: str
    dtypes: tuple[str, ...]
    num_tensors: int
    num_params: int
    metadata: Mapping[str, str]
    problem: str | None


def files_of(path: Path) -> tuple[ModelFile, ...]:
    """The weight files of a model as they are now, without hashes; of a folder that lacks some, its index instead.

    Raises GessoError where they cannot be read.
    """
    if path.is_dir():
        from gesso.checkpoints.diffusers import weight_files

        try:
            parts = [file for part in weight_files(path).values() for file in _shards(part)]
            listed = {file.relative_to(path).as_posix(): file for file in parts}
        except GessoError:
            listed = {MODEL_INDEX: path / MODEL_INDEX}
    else:
        listed = {path.name: path}
    try:
        return tuple(_stamped(name, file) for name, file in listed.items())
    except OSError as error:
        raise GessoError(
            f"{path}: cannot be read ({error.strerror})", code="unreadable", data={"path": str(path)}
        ) from None


def _shards(path: Path) -> tuple[Path, ...]:
    """The files of an index of several, or the file itself. Raises ModelFileError."""
    if path.suffix != ".json":
        return (path,)
    from gesso.checkpoints.weight_file import open_weights

    return open_weights(path).files


def _stamped(name: str, path: Path) -> ModelFile:
    status = path.stat()
    return ModelFile(name=name, path=path, nbytes=status.st_size, mtime_ns=status.st_mtime_ns)


def is_unchanged(files: tuple[ModelFile, ...]) -> bool:
    """Whether all files have the size and the time of change that they had. Looks at them, no more."""
    try:
        return bool(files) and all(file == _same(file) for file in files)
    except OSError:
        return False


def _same(file: ModelFile) -> ModelFile:
    status = file.path.stat()
    return replace(file, nbytes=status.st_size, mtime_ns=status.st_mtime_ns)


def examine(path: Path, hint: str | None) -> Facts:
    """The facts of a model. What cannot be read has a `problem`; nothing is raised for it.

    hint  kind by the folder that it lies in
    A PyTorch file stays closed: what is in it is told when it is imported.
    """
    packed = container(path)
    if packed in PYTORCH:
        guess = "checkpoint" if path.suffix.lower() == ".ckpt" else None
        return _unread(hint or guess, "a PyTorch file", "pickle", None)
    from gesso.checkpoints.detect import describe

    try:
        facts = facts_of(describe(path), hint)
        return replace(facts, layout="gguf") if packed == "gguf" else facts
    except GessoError as error:
        text = error.one_line.removeprefix(f"{path}: ").removeprefix(f"{path}/")
        layout = "diffusers" if (path / MODEL_INDEX).is_file() else "other"
        return _unread(hint or ("checkpoint" if layout == "diffusers" else "other"), "unreadable", layout, text)


def _unread(hint: str | None, what: str, layout: str, problem: str | None) -> Facts:
    return Facts(
        kind=hint or "other",
        family=None,
        layout=layout,
        what=what,
        dtypes=(),
        num_tensors=0,
        num_params=0,
        metadata={},
        problem=problem,
    )


def facts_of(description: "Description", hint: str | None) -> Facts:
    """From a description to what the index keeps."""
    kind = kind_of(description.kind.what, description.layout, description.family, hint)
    family = description.family if kind == "checkpoint" else _family_of_part(description)
    metadata: dict[str, str] = {}
    for file in description.files:
        metadata |= {key: value for key, value in file.metadata.items() if not key.startswith("gesso.")}
    return Facts(
        kind=kind,
        family=family,
        layout=description.layout,
        what=f"unknown; kept as {kind}" if kind == hint and description.kind.what == UNKNOWN else description.kind.what,
        dtypes=tuple(sorted({dtype for part in description.parts if part.name != "other" for dtype in part.dtypes}))
        or tuple(sorted({dtype for part in description.parts for dtype in part.dtypes})),
        num_tensors=description.num_tensors,
        num_params=description.num_params,
        metadata=_short(metadata),
        problem=None,
    )


def kind_of(what: str, layout: str, family: str | None, hint: str | None) -> str:
    """One of entry.KINDS: by what the header shows, by the folder where that tells nothing."""
    if family is not None:
        return "checkpoint"
    if hint in _BY_FOLDER:
        return str(hint)
    for words, kind in _WORDS:
        if words in what:
            return kind
    if layout in _LAYOUTS_OF_MODELS:
        return "checkpoint"
    return hint or "other"


# Width of the text that the UNet's attention reads -> family; the vectors of an embedding have it as well.
_WIDTHS: Mapping[int, str] = {768: "sd15", 1024: "sd21", 2048: "sdxl", 1280: "sdxl-refiner"}
_READS_TEXT = re.compile(
    r"attn2[._]to_[kv]\b.*(?:lora_down|lora_A|lora\.down|hada_w1_b)|attn2\.to_[kv]\.weight$|to_k_ip\."
)
_TRAINERS: tuple[tuple[str, str], ...] = (("sdxl", "sdxl"), ("sd_v1", "sd15"), ("sd_v2", "sd21"))


def _family_of_part(description: "Description") -> str | None:
    """The family that a part or an adapter fits, where its shapes or else its trainer's words tell."""
    from gesso.checkpoints.safetensors_file import open_safetensors

    if len(description.files) != 1 or container(description.path) != "other":
        return None
    tensors = open_safetensors(description.path).tensors
    if "clip_g" in tensors or any(name.startswith("lora_te2_") for name in tensors):
        return "sdxl"
    for name, info in tensors.items():
        if len(info.shape) >= 2 and (_READS_TEXT.search(name) or name in ("emb_params", "*")):
            return _WIDTHS.get(info.shape[1])
    trainer = description.files[0].metadata.get("ss_base_model_version", "")
    return next((family for start, family in _TRAINERS if trainer.startswith(start)), None)


def _short(metadata: Mapping[str, str]) -> dict[str, str]:
    """The shortest values first, as many as there is room for: a table of tags may be a megabyte long."""
    kept: dict[str, str] = {}
    room = MAX_METADATA
    for key, value in sorted(metadata.items(), key=lambda item: (len(item[1]), item[0])):
        room -= len(key) + len(value)
        if room < 0:
            break
        kept[key] = value
    return dict(sorted(kept.items()))
