"""Identifies a model file by the names and shapes in its header; reads no weights.

The order of the table matters: an adapter is known by what no whole model has, so adapters come first.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gesso.checkpoints import ldm
from gesso.checkpoints.config_json import read_object
from gesso.checkpoints.diffusers import INDEX, layout_of, weight_files
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import sha256_of
from gesso.checkpoints.native import COMPONENTS, is_native
from gesso.checkpoints.safetensors_file import SafetensorsFile, TensorInfo
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.upscalers import is_upscaler
from gesso.checkpoints.weight_file import open_weights

Tensors = Mapping[str, TensorInfo]
FIRST_CONVOLUTION = f"{ldm.UNET}input_blocks.0.0.weight"


@dataclass(frozen=True)
class FileKind:
    """A kind of model file.

    layout  "native", "ldm", "diffusers" or "other"
    what    in words, as it stands after "looks like"
    family  name of the family that loads it, where gesso does
    advice  what to do with a file that cannot be loaded
    """

    layout: str
    what: str
    family: str | None = None
    advice: str = ""


_LATER = "gesso does not load these yet"
_ADAPTER = "it changes a model and is not a model itself; give a whole model"
T2I_ADAPTER = "a T2I-Adapter"
_CONTROL = "it steers a model and is not a model itself; give a whole model, and this file with `control`"
_ONE_PART = "give a file or a folder with UNet, text encoder and VAE"
_TINY = f"{_ONE_PART}, and this file with `vae`, or with `preview_model` for previews"


def _starts(*prefixes: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.startswith(prefixes) for name in tensors)


def _ends(*suffixes: str) -> Callable[[Tensors], bool]:
    return lambda tensors: any(name.endswith(suffixes) for name in tensors)


def _all_of(*tests: Callable[[Tensors], bool]) -> Callable[[Tensors], bool]:
    return lambda tensors: all(test(tensors) for test in tests)


def _channels_in(count: int) -> Callable[[Tensors], bool]:
    def test(tensors: Tensors) -> bool:
        info = tensors.get(FIRST_CONVOLUTION)
        return info is not None and len(info.shape) == 4 and info.shape[1] == count

    return test


def _is_embedding(tensors: Tensors) -> bool:
    """Textual inversion: a few vectors and nothing else."""
    return "emb_params" in tensors or (len(tensors) <= 4 and all(len(info.shape) <= 2 for info in tensors.values()))


# In the spellings of kohya's trainer, of PEFT, where an adapter's name may stand within, and of diffusers in 2023.
_LORA = re.compile(
    r"\.lora_(down|up)\.weight|\.lora_[AB](\.[^.]+)?\.weight|[._]lora\.(down|up)\.weight|"
    r"\.lora_linear_layer\.(down|up)\.weight"
)
# Parts that LyCORIS has, and the words that names of its adapters and of kohya's start with.
_LYCORIS_ENDS = (
    *(".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".lokr_w2", ".oft_blocks", ".dora_scale", ".diff", ".w_norm"),
    ".ia3_l",  # PEFT's, of a kind that LyCORIS has, too
)
_LYCORIS_STARTS = ("lora_", "lycoris_", "oft_")
_XL, _REFINER = _starts("conditioner.embedders.1."), _starts("conditioner.embedders.0.model.")
_SD2 = _all_of(_starts(ldm.UNET), _starts("cond_stage_model.model."))
_SD1 = _all_of(_starts(ldm.UNET), _starts("cond_stage_model.transformer."))
_GUIDED = _starts(f"{ldm.UNET}{ldm.GUIDANCE}")
_UNET_ALONE = "give a whole model with text encoder and VAE; this file may replace its UNet"


def _model(what: str, family: str) -> FileKind:
    return FileKind("ldm", what, family=family)


_KINDS: Sequence[tuple[Callable[[Tensors], bool], FileKind]] = (
    (is_upscaler, FileKind("other", "an upscaler network (ESRGAN)", advice="use it with gesso upscale, as `model`")),
    (lambda tensors: "lora_controlnet" in tensors, FileKind("other", "a Control-LoRA", advice=_CONTROL)),
    (
        _starts("control_model.", "controlnet_", "input_hint_block.", "zero_down."),
        FileKind("other", "a ControlNet", advice=_CONTROL),
    ),
    (_starts("ip_adapter."), FileKind("other", "an IP-Adapter", advice=_ADAPTER)),
    (_starts("adapter.body.", "body."), FileKind("other", T2I_ADAPTER, advice=_CONTROL)),
    (
        lambda tensors: any(_LORA.search(name) for name in tensors),
        FileKind("other", "a LoRA", advice=_ADAPTER),
    ),
    (_ends(*_LYCORIS_ENDS), FileKind("other", "a LyCORIS adapter", advice=_ADAPTER)),
    (_starts(*_LYCORIS_STARTS), FileKind("other", "a LyCORIS adapter", advice=_ADAPTER)),
    (
        _starts(f"{ldm.UNET}double_blocks.", "double_blocks.", "single_transformer_blocks."),
        FileKind("other", "FLUX", advice=_LATER),
    ),
    (
        _starts(f"{ldm.UNET}joint_blocks.", "joint_blocks.", "transformer_blocks."),
        FileKind("other", "Stable Diffusion 3", advice=_LATER),
    ),
    (
        _all_of(_XL, _channels_in(9)),
        _model("Stable Diffusion XL for inpainting (9 input channels)", "sdxl-inpaint"),
    ),
    (
        _all_of(_XL, _channels_in(8)),
        FileKind("ldm", "Stable Diffusion XL that edits pictures (8 input channels)", advice=_LATER),
    ),
    (_all_of(_XL, _GUIDED), _model("Stable Diffusion XL distilled to a few steps (LCM)", "sdxl-lcm-full")),
    (_XL, _model("Stable Diffusion XL", "sdxl")),
    (_REFINER, _model("the refiner of Stable Diffusion XL", "sdxl-refiner")),
    (
        _all_of(_SD2, _channels_in(7)),
        _model("the x4 upscaler of Stable Diffusion 2 (7 input channels)", "x4-upscaler"),
    ),
    (
        _all_of(_SD2, _channels_in(9)),
        _model("Stable Diffusion 2 for inpainting (9 input channels)", "sd2-inpaint"),
    ),
    (
        _all_of(_SD2, _channels_in(5)),
        FileKind("ldm", "Stable Diffusion 2 with a depth map (5 input channels)", advice=_LATER),
    ),
    (
        _all_of(_SD2, _starts(f"{ldm.UNET}label_emb.")),
        FileKind("ldm", "Stable Diffusion 2 unCLIP", advice=_LATER),
    ),
    (_SD2, _model("Stable Diffusion 2", "sd21")),
    (
        _all_of(_SD1, _channels_in(9)),
        _model("Stable Diffusion 1 for inpainting (9 input channels)", "sd15-inpaint"),
    ),
    (_all_of(_SD1, _channels_in(8)), _model("InstructPix2Pix (8 input channels)", "instruct-pix2pix")),
    (_all_of(_SD1, _GUIDED), _model("Stable Diffusion 1 distilled to a few steps (LCM)", "sd15-lcm-full")),
    (_SD1, _model("Stable Diffusion 1", "sd15")),
    (
        _starts(ldm.UNET, "input_blocks.0.0."),
        FileKind("ldm", "a UNet without its text encoder or VAE", advice=f"{_ONE_PART}, and this file with `unet`"),
    ),
    (
        _starts("encoder.layers.0.", "decoder.layers.0.", "taesd_decoder.", "taesd_encoder."),
        FileKind("other", "a TAESD (tiny autoencoder)", advice=_TINY),
    ),
    (
        lambda tensors: "1.conv.0.weight" in tensors or "3.conv.0.weight" in tensors,
        FileKind("other", "half of a TAESD (tiny autoencoder)", advice=_TINY),
    ),
    (
        _starts(ldm.VAE, "encoder.down.0.", "encoder.down_blocks.0."),
        FileKind("other", "a VAE alone", advice=f"{_ONE_PART}, and this file with `vae`"),
    ),
    (
        _starts("down_blocks.0."),
        FileKind(
            "other",
            "the UNet of a diffusers folder",
            advice="give the folder above it, or a whole model, and this with `unet`",
        ),
    ),
    (
        _starts("text_model.encoder.", "cond_stage_model.", "transformer.resblocks.", "conditioner."),
        FileKind("other", "a text encoder alone", advice=_ONE_PART),
    ),
    (_is_embedding, FileKind("other", "a textual inversion embedding", advice=_ADAPTER)),
)
_UNKNOWN = FileKind(
    "other", "no model that gesso knows", advice="expected Stable Diffusion 1, 2 or XL, or a gesso model"
)
NATIVE = FileKind("native", "a gesso model", family="gesso-mini")

# The families of folders: layout, and channels of the UNet's input beside those of its output.
_FOLDER_FAMILIES: Mapping[tuple[str, int], str] = {
    ("sd1", 0): "sd15",
    ("sd1", 5): "sd15-inpaint",
    ("sd1", 4): "instruct-pix2pix",
    ("sd2", 0): "sd21",
    ("sd2", 5): "sd2-inpaint",
    ("sd2", 3): "x4-upscaler",
    ("sdxl", 0): "sdxl",
    ("sdxl", 5): "sdxl-inpaint",
    ("refiner", 0): "sdxl-refiner",
}


_GUIDED_FAMILIES = {"sd15": "sd15-lcm-full", "sdxl": "sdxl-lcm-full"}


def detect_folder(folder: Path, unet: Tensors) -> FileKind:
    """The kind of a diffusers folder, from its index and the header of its UNet. Raises ModelFileError."""

    def shape(*endings: str) -> tuple[int, ...]:
        return next((info.shape for name, info in unet.items() if name.endswith(endings)), ())

    layout = layout_of(read_object(folder / INDEX))
    if layout == "sd1" and len(shape("attentions.0.proj_in.weight")) == 2:  # linear in SD 2, a convolution in SD 1
        layout = "sd2"
    into, out = shape("conv_in.weight"), shape("conv_out.weight")
    extra = into[1] - out[0] if len(into) == len(out) == 4 else -1
    family = _FOLDER_FAMILIES.get((layout, extra))
    if shape(ldm.GUIDANCE):
        family = _GUIDED_FAMILIES.get(family or "")
    return FileKind("diffusers", "a diffusers folder", family=family)


# What distilled models are called: part of the file's name -> ending of the family's.
_FEW_STEP_NAMES = ("turbo", "lightning", "lcm")
_FEW_STEP_BASES: Mapping[str, Mapping[str, str]] = {
    "turbo": {"sd21": "sd-turbo", "sdxl": "sdxl-turbo"},
    "lightning": {"sdxl": "sdxl-lightning"},
    "lcm": {"sd15": "sd15-lcm", "sdxl": "sdxl-lcm"},
}


def named_family(path: str | Path, family: str | None) -> str | None:
    """The few-step family that a model's name suggests, for a header of `family`; a hint and no more.

    A distilled model looks like the one that it was made from, and wants other settings.
    """
    name = Path(path).name.lower()
    for word in _FEW_STEP_NAMES:
        if family is not None and word in name and family in _FEW_STEP_BASES[word]:
            return _FEW_STEP_BASES[word][family]
    return None


def detect(file: TensorFile) -> FileKind:
    """What a file looks like. Its metadata decide nothing but whether it claims to be gesso's own layout."""
    if isinstance(file, SafetensorsFile) and is_native(file):
        return NATIVE
    return next((kind for test, kind in _KINDS if test(file.tensors)), _UNKNOWN)


def require_model(file: TensorFile) -> FileKind:
    """The kind of a file that is a whole model of a family that gesso loads. Raises ModelFileError for any other."""
    kind = detect(file)
    if kind.family is None:
        raise ModelFileError("architecture_mismatch", file.path, f"looks like {kind.what}; {kind.advice}")
    return kind


@dataclass(frozen=True)
class PartDescription:
    """One part of a model: unet, text, vae, upscaler or other."""

    name: str
    num_tensors: int
    num_params: int  # elements; tables such as the schedule's count in "other"
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class FileDescription:
    """One file. metadata are what its author wrote: to be shown as text, not to be trusted."""

    path: Path
    nbytes: int
    metadata: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Of the whole file, which is read for it the first time."""
        return sha256_of(self.path)


@dataclass(frozen=True)
class Description:
    """Description of a file or folder, for `gesso models info`."""

    path: Path
    kind: FileKind
    parts: tuple[PartDescription, ...]
    files: tuple[FileDescription, ...]

    @property
    def layout(self) -> str:
        return self.kind.layout

    @property
    def family(self) -> str | None:
        return self.kind.family

    @property
    def named_family(self) -> str | None:
        """The few-step family that the name of the file or folder speaks of: a hint for `family`."""
        return named_family(self.path, self.family)

    @property
    def num_tensors(self) -> int:
        return sum(part.num_tensors for part in self.parts)

    @property
    def num_params(self) -> int:
        return sum(part.num_params for part in self.parts)

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


_PREFIXES = {
    ldm.UNET: "unet",
    ldm.VAE: "vae",
    "cond_stage_model.": "text",
    "conditioner.embedders.1.": "text_2",
    "conditioner.": "text",
    **{f"{component}.": component for component in COMPONENTS},  # of gesso's own layout
}


_PARTS = ("unet", "text", "text_2", "vae", "upscaler")


def describe(path: str | Path) -> Description:
    """Describes a file of weights of any kind and container, or a diffusers folder. Reads headers alone.

    Raises ModelFileError for what is neither.
    """
    path = Path(path)
    if path.is_dir():
        opened = {part: open_weights(file) for part, file in weight_files(path).items()}
        parts = [_part(part, file.tensors.values()) for part, file in opened.items()]
        return Description(path, detect_folder(path, opened["unet"].tensors), tuple(parts), _files(*opened.values()))
    file = open_weights(path)
    groups: dict[str, list[TensorInfo]] = {}
    for name, info in file.tensors.items():
        part = next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), "other")
        groups.setdefault(part, []).append(info)
    parts = [_part(part, groups[part]) for part in (*_PARTS, "other") if part in groups]
    return Description(path, detect(file), tuple(parts), _files(file))


def _part(name: str, infos: Iterable[TensorInfo]) -> PartDescription:
    infos = list(infos)
    dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in infos})
    return PartDescription(name, len(infos), sum(info.count for info in infos), tuple(dtypes))


def _files(*files: TensorFile) -> tuple[FileDescription, ...]:
    """Each file on disk: a part may lie in several."""
    return tuple(FileDescription(path, path.stat().st_size, file.metadata) for file in files for path in file.files)
