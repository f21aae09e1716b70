"""What a file is, told from the names and shapes in its header; no weights are read.

The order of the table matters: an adapter is known by what no whole model has, so adapters come first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gesso.checkpoints import ldm
from gesso.checkpoints.diffusers import weight_files
from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.native import COMPONENTS, is_native
from gesso.checkpoints.safetensors_file import SafetensorsFile, TensorInfo, open_safetensors, sha256_of

Tensors = Mapping[str, TensorInfo]
FIRST_CONVOLUTION = f"{ldm.UNET}input_blocks.0.0.weight"


@dataclass(frozen=True)
class Kind:
    """One kind of file.

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
_ADAPTER = "it changes a model and is none by itself; give a whole model"
_ONE_PART = "give a file or a folder with UNet, text encoder and VAE"


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


_LORA_ENDS = (".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight", ".lora.down.weight")
_LYCORIS_ENDS = (".hada_w1_a", ".lokr_w1", ".lokr_w1_a", ".oft_blocks", ".dora_scale", ".diff")

_KINDS: Sequence[tuple[Callable[[Tensors], bool], Kind]] = (
    (lambda tensors: "lora_controlnet" in tensors, Kind("other", "a Control-LoRA", advice=_ADAPTER)),
    (_starts("control_model.", "controlnet_", "input_hint_block."), Kind("other", "a ControlNet", advice=_ADAPTER)),
    (_starts("ip_adapter."), Kind("other", "an IP-Adapter", advice=_ADAPTER)),
    (_starts("adapter.body.", "body."), Kind("other", "a T2I-Adapter", advice=_ADAPTER)),
    (_ends(*_LORA_ENDS), Kind("other", "a LoRA", advice=_ADAPTER)),
    (_ends(*_LYCORIS_ENDS), Kind("other", "a LyCORIS adapter", advice=_ADAPTER)),
    (_starts(f"{ldm.UNET}double_blocks.", "double_blocks."), Kind("other", "FLUX", advice=_LATER)),
    (_starts(f"{ldm.UNET}joint_blocks.", "joint_blocks."), Kind("other", "Stable Diffusion 3", advice=_LATER)),
    (_starts("conditioner.embedders.1."), Kind("ldm", "Stable Diffusion XL", advice=_LATER)),
    (_starts("conditioner.embedders.0.model."), Kind("ldm", "the refiner of Stable Diffusion XL", advice=_LATER)),
    (_all_of(_starts(ldm.UNET), _starts("cond_stage_model.model.")), Kind("ldm", "Stable Diffusion 2", advice=_LATER)),
    (
        _all_of(_starts(ldm.TEXT), _channels_in(9)),
        Kind("ldm", "Stable Diffusion 1 for inpainting (9 input channels)", advice=_LATER),
    ),
    (_all_of(_starts(ldm.TEXT), _channels_in(8)), Kind("ldm", "InstructPix2Pix (8 input channels)", advice=_LATER)),
    (
        _all_of(_starts(ldm.UNET), _starts(ldm.VAE), _starts(ldm.TEXT)),
        Kind("ldm", "Stable Diffusion 1", family="sd15"),
    ),
    (_starts(ldm.UNET), Kind("ldm", "a UNet without its text encoder or VAE", advice=_ONE_PART)),
    (_starts(ldm.VAE, "encoder.down.0.", "encoder.down_blocks.0."), Kind("other", "a VAE alone", advice=_ONE_PART)),
    (_starts("down_blocks.0."), Kind("other", "the UNet of a diffusers folder", advice="give the folder above it")),
    (
        _starts("text_model.encoder.", "cond_stage_model."),
        Kind("other", "a text encoder alone", advice=_ONE_PART),
    ),
    (_is_embedding, Kind("other", "a textual inversion embedding", advice=_ADAPTER)),
)
_UNKNOWN = Kind("other", "no model that gesso knows", advice="expected Stable Diffusion 1.x or a gesso model")
NATIVE = Kind("native", "a gesso model", family="gesso-mini")
DIFFUSERS = Kind("diffusers", "a diffusers folder", family="sd15")


def detect(file: SafetensorsFile) -> Kind:
    """What a file looks like. Its metadata decide nothing but whether it claims to be gesso's own layout."""
    if is_native(file):
        return NATIVE
    return next((kind for test, kind in _KINDS if test(file.tensors)), _UNKNOWN)


def require_model(file: SafetensorsFile) -> Kind:
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
    """What `gesso models info` tells about a file or a folder."""

    path: Path
    kind: Kind
    parts: tuple[PartDescription, ...]
    files: tuple[FileDescription, ...]

    @property
    def layout(self) -> str:
        return self.kind.layout

    @property
    def family(self) -> str | None:
        return self.kind.family

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
    "conditioner.": "text",
    **{f"{component}.": component for component in COMPONENTS},
}


def describe(path: str | Path) -> Description:
    """Describes a safetensors file of any kind, or a diffusers folder. Reads headers alone.

    Raises ModelFileError for what is neither.
    """
    path = Path(path)
    if path.is_dir():
        opened = {part: open_safetensors(file) for part, file in weight_files(path).items()}
        parts = [_part(part, file.tensors.values()) for part, file in opened.items()]
        return Description(path, DIFFUSERS, tuple(parts), tuple(map(_file, opened.values())))
    file = open_safetensors(path)
    groups: dict[str, list[TensorInfo]] = {}
    for name, info in file.tensors.items():
        part = next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), "other")
        groups.setdefault(part, []).append(info)
    parts = [_part(part, groups[part]) for part in (*COMPONENTS, "other") if part in groups]
    return Description(path, detect(file), tuple(parts), (_file(file),))


def _part(name: str, infos: Iterable[TensorInfo]) -> PartDescription:
    infos = list(infos)
    dtypes = sorted({str(info.dtype).removeprefix("torch.") for info in infos})
    return PartDescription(name, len(infos), sum(info.count for info in infos), tuple(dtypes))


def _file(file: SafetensorsFile) -> FileDescription:
    return FileDescription(file.path, file.nbytes, file.metadata)
