"""A UNet from a separate file in place of a model's own: distilled and inpainting UNets are published this way."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.detect import detect
from gesso.checkpoints.errors import ModelFileError, shape_text
from gesso.checkpoints.keymap import Rule, Shape, load, nest, plan, shapes_of
from gesso.checkpoints.tensor_file import TensorFile
from gesso.checkpoints.weight_file import open_weights
from gesso.families.base import Concat, Family
from gesso.families.parts import empty_networks, fill
from gesso.families.registry import release_like

_CONCATS: dict[int, Concat] = {0: "none", 5: "inpaint", 4: "edit"}  # channels beside the latents


@dataclass(frozen=True, eq=False)
class SeparateUNet:
    """An opened file with a UNet, its weights not read yet.

    shapes  of its tensors by their names in the file, those of the UNet alone
    prefix  that these names have
    folder  whether they are those of the diffusers library, rather than of latent-diffusion
    """

    file: TensorFile
    shapes: dict[str, Shape]
    prefix: str
    folder: bool

    @staticmethod
    def open(path: str | Path, *, converted: Path | None = None) -> "SeparateUNet":
        """Reads the header.  path: a UNet alone, a whole model, or a folder of the diffusers library.

        Raises ModelFileError for a file without a UNet.
        """
        file = open_weights(_file_in(Path(path)), converted=converted)
        shapes = shapes_of(file.tensors)
        for prefix, first, folder in (
            (ldm.UNET, f"{ldm.UNET}input_blocks.", False),
            ("", "input_blocks.", False),
            ("", "down_blocks.", True),
        ):
            if any(name.startswith(first) for name in shapes):
                own = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
                return SeparateUNet(file, own, prefix, folder)
        message = f"looks like {detect(file).what}, expected a UNet; give the file of one"
        raise ModelFileError("architecture_mismatch", file.path, message)

    def family(self, base: Family) -> Family:
        """The family of a model with this UNet; its input channels and guidance embedding may differ from the model's.

        Raises ModelFileError where no release has such a UNet.
        """
        into = self._shape("conv_in.weight" if self.folder else "input_blocks.0.0.weight", 4)[1]
        extra = into - base.vae.latent_channels
        guidance = self.shapes.get(self.prefix + ldm.GUIDANCE)
        guidance_dim = guidance[1] if guidance is not None and len(guidance) == 2 else None
        if extra not in _CONCATS:
            problem = f"its UNet takes {into} channels, {base.name!r} has {base.vae.latent_channels} of latents"
            raise ModelFileError("architecture_mismatch", self.file.path, problem)
        unet = replace(base.unet, in_channels=into, guidance_dim=guidance_dim)
        if unet == base.unet:
            return base
        joined = replace(base, unet=unet, concat=_CONCATS[extra])
        try:
            like = release_like(joined)
        except ValueError as error:
            raise ModelFileError("architecture_mismatch", self.file.path, str(error)) from None
        return replace(joined, name=like.name, defaults=like.defaults, scheduler=like.scheduler)

    def load(
        self, family: Family, device: str | torch.device, dtype: torch.dtype | None, *, check: bool
    ) -> tuple[nn.Module, tuple[Path, ...]]:
        """The UNet at the sizes of a family, and the files that it was read from. Raises ModelFileError."""
        unet = empty_networks(family, self.file.path)["unet"]
        linear = family.layout != "sd1"
        rules: list[Rule] = (diffusers if self.folder else ldm).unet_rules(family.unet, linear=linear)
        rows = plan(nest(rules, self.prefix, ""), self.shapes, shapes_of(unet.state_dict()), where=self.file.path)
        with self.file.reader() as reader:
            fill(unet, load(rows, reader), self.file.path, device=device, dtype=dtype, check=check)
        return unet, self.file.files

    def _shape(self, name: str, dims: int) -> Shape:
        shape = self.shapes.get(self.prefix + name, ())
        if len(shape) != dims:
            message = f"{self.prefix + name} is {shape_text(shape) if shape else 'missing'}, expected {dims} dimensions"
            raise ModelFileError("shape", self.file.path, message)
        return shape


def _file_in(path: Path) -> Path:
    """The weights of a folder: of a UNet, or of a whole model."""
    if not path.is_dir():
        return path
    folder = path / "unet" if (path / diffusers.INDEX).is_file() else path
    return diffusers.weight_file(folder, diffusers.STEMS["unet"])
