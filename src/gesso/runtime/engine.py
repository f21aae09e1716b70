"""The engine: a device, number formats and the models that are loaded. Passed to whoever needs it, never a global."""

import platform
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import gesso
from gesso.checkpoints.safetensors_file import sha256_of
from gesso.errors import GessoError
from gesso.families.base import Family
from gesso.families.encoding import EncodedPrompt, encode_prompt
from gesso.families.loading import load_parts
from gesso.families.parts import Parts
from gesso.runtime.conditioning import Conditioning
from gesso.runtime.environment import Environment
from gesso.runtime.precision import Precision, choose_device, choose_precision, describe_device
from gesso.text.tokenizer import Tokenizer

# Models that the package carries: name -> file in gesso/data.
EMBEDDED = {"gesso-mini": "gesso-mini.safetensors"}
DEFAULT_MODEL = "gesso-mini"


@dataclass(frozen=True)
class WeightFile:
    """A file that weights were read from, as it was then."""

    name: str  # without the path to the model
    path: Path
    stamp: tuple[int, ...]

    def sha256(self, hash_file: Callable[[Path], str]) -> str:
        """Raises GessoError where the file has changed or gone."""
        try:
            same = _stamp(self.path) == self.stamp
        except OSError:
            same = False
        if not same:
            raise GessoError(f"{self.path}: changed or gone since it was loaded; load the model again")
        return hash_file(self.path)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The networks of one model on one device, ready to run. Made by `Engine.load`."""

    name: str  # "gesso-mini", or the name of the file or folder, without the path to it
    parts: Parts
    device: torch.device
    precision: Precision
    weights: tuple[WeightFile, ...] = ()  # the UNet's first
    hash_file: Callable[[Path], str] = sha256_of  # a cache of hashes may stand in

    @cached_property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Name and SHA-256 of each weight file, the UNet first. Reads them when first asked: seconds for large ones.

        Raises GessoError where a file is no longer the one that was loaded.
        """
        return tuple((file.name, file.sha256(self.hash_file)) for file in self.weights)

    @property
    def family(self) -> Family:
        return self.parts.family

    @property
    def tokenizer(self) -> Tokenizer:
        return self.parts.tokenizer

    @property
    def has_upscaler(self) -> bool:
        return self.parts.upscaler is not None

    def encode_prompt(self, text: str, *, clip_skip: int, width: int, height: int) -> EncodedPrompt:
        """A prompt to one row of what the UNet is told, in its number format; see `families.encoding.encode_prompt`."""
        encoded = encode_prompt(self.parts, text, clip_skip=clip_skip, width=width, height=height)
        dtype = self.precision.unet
        added = None if encoded.added is None else encoded.added.to(dtype)
        return replace(encoded, context=encoded.context.to(dtype), added=added)

    def predict(self, z: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """One call of the UNet.  z [B, C, h, w], timestep [B], conditioning of B rows -> [B, C, h, w]"""
        z = z.to(self.precision.unet, memory_format=torch.channels_last)
        output: Tensor = self.parts.unet(z, timestep, conditioning.context, conditioning.added)
        return output

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w], scaled -> pixels [B, 3, H, W] in about [-1, 1]."""
        return self.parts.vae.decode(latents.to(self.precision.vae, memory_format=torch.channels_last))

    def upscale(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] -> [B, 3, sH, sW] with s = family.output_scale. Raises ValueError without an upscaler."""
        if self.parts.upscaler is None:
            raise ValueError(f"{self.name} has no upscaler")
        larger: Tensor = self.parts.upscaler(pixels)
        return larger


class Engine:
    """Device, number formats, resident models. Any number of engines may live in one process.

    device         auto, cpu, cuda, cuda:N, mps
    dtype          auto, float32, bfloat16, float16; see `choose_precision`
    rows_per_call  pictures that go through the networks together. 1 makes every picture the same alone or in a run, bit
                   by bit. More is quicker, but matrix products and convolutions choose the order of their sums by the
                   size of the batch: at the CPU sizes of gesso-mini, 20 steps, 2 to 6 together were 1.5 to 1.8 times
                   as quick and moved 0.005 % of the colour values by one level of 255, none by more.
    max_models     how many models stay loaded; the one used longest ago goes first
    hash_file      SHA-256 of a weight file, for recipes; a library that has hashed its files can say it at once
    Raises GessoError for a device that is not there and for a dtype that it cannot use.
    """

    def __init__(
        self,
        device: str = "auto",
        dtype: str = "auto",
        *,
        rows_per_call: int = 1,
        max_models: int = 1,
        hash_file: Callable[[Path], str] = sha256_of,
    ) -> None:
        if rows_per_call < 1 or max_models < 1:
            raise ValueError(f"rows_per_call {rows_per_call}, max_models {max_models}: expected 1 or more")
        self.device = choose_device(device)
        self.precision = choose_precision(dtype, self.device)
        self.rows_per_call = rows_per_call
        self.max_models = max_models
        self.hash_file = hash_file
        self._resident: OrderedDict[tuple[Any, ...], LoadedModel] = OrderedDict()

    def load(self, model: str | Path = DEFAULT_MODEL) -> LoadedModel:
        """A model by its name ("gesso-mini") or from a file or a diffusers folder, from memory where it is loaded.

        Raises GessoError where there is none, or the file is not a model that gesso can use.
        """
        path = find_model(model)
        key = (str(path.resolve()), *_stamp(path))
        if key in self._resident:
            self._resident.move_to_end(key)
            return self._resident[key]
        while len(self._resident) >= self.max_models:
            self._resident.popitem(last=False)
        loaded = self._load(path, str(model) if str(model) in EMBEDDED else path.name or path.resolve().name)
        self._resident[key] = loaded
        return loaded

    def _load(self, path: Path, name: str) -> LoadedModel:
        precision = self.precision
        parts = load_parts(path, device=self.device)
        _settle(parts.unet, precision.unet)
        _settle(parts.text, precision.text)
        _settle(parts.vae, precision.vae)
        if parts.upscaler is not None:
            _settle(parts.upscaler, precision.vae)
        weights = tuple(WeightFile(_short_name(file, path), file, _stamp(file)) for file in parts.files)
        return LoadedModel(
            name=name,
            parts=parts,
            device=self.device,
            precision=precision,
            weights=weights,
            hash_file=self.hash_file,
        )

    def environment(self) -> Environment:
        """What else can change the last bits of a picture."""
        return Environment(
            gesso=gesso.__version__,
            torch=str(torch.__version__),
            python=platform.python_version(),
            device=describe_device(self.device),
            dtype=self.precision.name,
            threads=torch.get_num_threads(),
            rows_per_call=self.rows_per_call,
        )


def _settle(network: nn.Module, dtype: torch.dtype) -> None:
    """Number format, and channels last in memory: that is how the fast convolutions read their weights."""
    network.to(dtype=dtype)
    for param in network.parameters():
        if param.ndim == 4:
            param.data = param.data.contiguous(memory_format=torch.channels_last)


def find_model(model: str | Path) -> Path:
    """The file or folder of a model. Raises GessoError where nothing is there."""
    name = str(model)
    if name in EMBEDDED:
        path = Path(str(resources.files("gesso") / "data" / EMBEDDED[name]))
        if not path.is_file():
            raise GessoError(
                f"{name}: this installation lacks {path.name}. Install gesso again, or give --model a file"
            )
        return path
    if "\0" in name or not name:
        raise GessoError("--model: empty, or with a NUL character; give a name, a file or a folder")
    path = Path(name)
    try:
        exists = path.exists()
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise GessoError(f"{name[:200]}: cannot be read ({error.strerror})") from error
    if not exists:
        raise GessoError(
            f"{name}: no such file or folder, and no model of that name. Known names: {', '.join(EMBEDDED)}; "
            "otherwise give a .safetensors file or a diffusers folder"
        )
    return path


def _stamp(path: Path) -> tuple[int, ...]:
    """Size and time of change of the file, or of every file of a folder, since a changed model is loaded again."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return tuple(number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns))


def _short_name(file: str | Path, root: Path) -> str:
    """The file's name without the path to the model: "unet/x.safetensors" in a folder, "x.safetensors" alone."""
    file = Path(file)
    return file.relative_to(root).as_posix() if root.is_dir() and file.is_relative_to(root) else file.name
