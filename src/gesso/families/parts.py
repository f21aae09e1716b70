"""A whole model in memory: its family, its networks, its tokenizer, and the files it came from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gesso.checkpoints.errors import ModelFileError, examples, shape_text
from gesso.checkpoints.keymap import Shape, shapes_of
from gesso.errors import shorten
from gesso.families.base import Family
from gesso.models.clip import CLIPTextModel
from gesso.models.taesd import TAESD
from gesso.models.unet import UNet
from gesso.models.upscaler import MiniUpscaler
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.notices import Notice
from gesso.text.lexicon import Lexicon
from gesso.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class ModelParts:
    """The result of `load_parts`. The networks are in evaluation mode and need no gradients.

    files                each weight file that was read, in a fixed order, the model's own first
    text_2, tokenizer_2  SDXL's second text encoder
    scalars              numbers that a single file holds besides the weights and that nothing reads, by their names
                         there, such as logit_scale: kept so that saving gives the same file
    notices              what the user should know of the file, such as tensors that are ignored
    """

    family: Family
    unet: UNet
    vae: AutoencoderKL | TAESD
    text: CLIPTextModel
    tokenizer: Tokenizer
    upscaler: MiniUpscaler | None
    files: tuple[Path, ...]
    text_2: CLIPTextModel | None = None
    tokenizer_2: Tokenizer | None = None
    scalars: Mapping[str, Tensor] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()

    @cached_property
    def lexicon(self) -> Lexicon:
        """Finds the family's objects in token ids."""
        return Lexicon.of(self.tokenizer, self.family.objects)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks by component: unet, text, vae, and text_2 and upscaler where there are such."""
        networks = {
            "unet": self.unet,
            "text": self.text,
            "text_2": self.text_2,
            "vae": self.vae,
            "upscaler": self.upscaler,
        }
        return {name: network for name, network in networks.items() if network is not None}


# What networks make their parameters with; anything else would be made in memory, and replaced there.
_FACTORIES = (torch.empty, torch.zeros, torch.ones)


class _OnMeta(TorchFunctionMode):
    """Makes new parameters on the meta device and leaves them as they are.

    Filling them would take seconds, and random numbers that are not ours, and there it would also import torch's
    compiler, two seconds of a program's start. `torch.device("meta")` is a mode of its own, and each mode costs a call
    in Python for each of torch's.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            return func(*args, **{**kwargs, "device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """Networks made within the block have no memory for their weights, and cost no time."""
    with _OnMeta():
        yield


def empty_networks(family: Family, where: str | Path) -> dict[str, nn.Module]:
    """The networks of a family by component, without memory for their numbers (on the meta device).

    Raises ModelFileError where the sizes of the config do not fit each other.
    """
    try:
        with on_meta():
            networks: dict[str, nn.Module] = {
                "unet": UNet(family.unet),
                "text": CLIPTextModel(family.text),
                "vae": AutoencoderKL(family.vae),
            }
            if family.text_2 is not None:
                networks["text_2"] = CLIPTextModel(family.text_2)
            if family.upscaler is not None:
                networks["upscaler"] = MiniUpscaler(family.upscaler)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ModelFileError("config", where, f"sizes that make no model: {shorten(str(error))}") from None
    return networks


def empty_vae(config: VAEConfig, where: str | Path) -> AutoencoderKL:
    """An autoencoder without memory for its numbers. Raises ModelFileError for sizes that make none."""
    try:
        with on_meta():
            return AutoencoderKL(config)
    except (ValueError, IndexError, RuntimeError) as error:
        raise ModelFileError("config", where, f"sizes that make no VAE: {shorten(str(error))}") from None


def param_shapes(networks: Mapping[str, nn.Module]) -> dict[str, Shape]:
    """ "<component>.<parameter>" -> shape, over all networks."""
    return {
        f"{part}.{name}": tuple(param.shape) for part, net in networks.items() for name, param in net.named_parameters()
    }


def fill(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str | Path,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None,
    check: bool = True,
) -> None:
    """Fills a network with weights. If dtype and device agree with the tensors, these become the parameters, uncopied.

    dtype  None: each tensor keeps its stored dtype
    check  reads all weights to refuse NaN and infinity; False leaves that to the code that copies them
    Raises ModelFileError for a missing or further name, another shape, and with `check` numbers that are not finite,
    in the file or in `dtype`.
    """
    expected = shapes_of(dict(network.named_parameters()))
    if missing := [name for name in expected if name not in tensors]:
        raise ModelFileError("missing_key", where, f"{len(missing)} tensors are missing: {examples(missing)}")
    if unknown := [name for name in tensors if name not in expected]:
        raise ModelFileError("unknown_key", where, f"{len(unknown)} tensors are unknown: {examples(unknown)}")
    placed = {}
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            message = f"{shorten(name)} is {shape_text(tensor.shape)}, expected {shape_text(expected[name])}"
            raise ModelFileError("shape", where, message)
        if not tensor.is_floating_point():
            raise ModelFileError("dtype", where, f"{shorten(name)} is {tensor.dtype}, expected floating-point numbers")
        placed[name] = tensor.to(device=device, dtype=dtype)
        if check:
            refuse_nonfinite(name, tensor, placed[name], where)
    modules = dict(network.named_modules())
    for name, tensor in placed.items():  # what load_state_dict(assign=True) does, in half the time
        owner, _, parameter = name.rpartition(".")
        setattr(modules[owner], parameter, nn.Parameter(tensor, requires_grad=False))
    network.eval()


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite. aminmax reads the numbers once and writes nothing; both show in it."""
    if tensor.dtype.itemsize == 1:  # torch compares no 8-bit floats
        tensor = tensor.float()
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def refuse_nonfinite(name: str, stored: Tensor, placed: Tensor, where: str | Path) -> None:
    """Raises ModelFileError if `placed`, converted from `stored`, holds NaN or infinity."""
    if is_finite(placed):
        return
    if is_finite(stored):
        message = f"{shorten(name)} overflows {placed.dtype}. Load the model as float32 or bfloat16"
        raise ModelFileError("overflow", where, message)
    raise ModelFileError(
        "nonfinite", where, f"{shorten(name)} holds NaN or infinity; the file is damaged or badly made"
    )
