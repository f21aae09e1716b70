"""What requests are checked against before they are accepted: the limits and defaults of the families of models.

The families themselves need torch, which the server does without. `families.json` holds what matters here, made by

    python -m gesso.api.family_table

and a test keeps it fresh. Models of the family gesso-mini have their sizes in their files.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gesso.families.base import Family

FILE = Path(__file__).with_name("families.json")


def table(*, counted: bool = True) -> dict[str, Any]:
    """Families by name, and the samplers that have an eta. Imports torch.

    counted  with the activations, whose counting takes seconds
    """
    from gesso.diffusion.samplers import SAMPLERS
    from gesso.families.registry import FAMILIES
    from gesso.pipelines.defaults import defaults_for
    from gesso.request.request import TextToImageRequest

    plain = TextToImageRequest(prompt="")
    own = [FAMILIES[name] for name in FAMILIES if FAMILIES.origin(name) is None]
    families = {family.name: facts(family, counted=counted) for family in (*own, _builtin())}
    first = defaults_for(plain, next(iter(FAMILIES.values())))
    etas = {name: first.etas[name] for name in first.etas if SAMPLERS.origin(name) is None}
    return {"etas": etas, "families": families}


def _builtin() -> "Family":
    """That of the built-in model; others of its family have sizes of their own."""
    from gesso.families.gesso_mini import family_from_config
    from gesso.library.builtin import builtin_entries

    entry = builtin_entries()[0]
    with open(entry.path, "rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    config = json.loads(header["__metadata__"]["gesso.config"])
    return family_from_config({key: value for key, value in config.items() if key not in ("format", "version")}, "")


def facts(family: "Family", *, counted: bool = True) -> dict[str, Any]:
    """One family as the table has it."""
    plain = {
        "size": family.output_size,
        "multiple": family.size_multiple,
        "scale": family.output_scale,
        "downscale": family.vae.downscale,
        "num_steps": family.defaults.num_steps,
        "guidance_scale": family.defaults.guidance_scale,
        "sampler": family.defaults.sampler,
        "schedule": family.defaults.schedule,
        "clip_skip": family.clip_skip,
        "max_clip_skip": family.text.num_layers,
        "kind": family.concat,
        "max_noise_level": family.max_level,
        "takes_guidance_scale": family.takes_guidance_scale,
        "is_refiner": family.is_refiner,
    }
    return plain | ({"activations": activations(family)} if counted else {})


def activations(family: "Family") -> dict[str, int]:
    """Bytes of float32 that the networks hold besides their weights, per latent of one row: counted on a square of the
    native size, and a bit less than linear in it.
    """
    import torch

    from gesso.families.parts import empty_networks
    from gesso.models.vae import AutoencoderKL
    from gesso.runtime.footprint import peak_nbytes

    networks = empty_networks(family, family.name)
    side = family.native_size // family.vae.downscale
    config, rows = family.unet, 2

    def meta(*shape: int) -> "torch.Tensor":
        return torch.empty(*shape, device="meta")

    def unet() -> object:
        return networks["unet"](
            meta(rows, config.in_channels, side, side),
            meta(rows),
            meta(rows, family.text.max_length, config.context_dim),
            meta(rows, config.added_dim) if config.added_dim else None,
            torch.empty(rows, dtype=torch.int64, device="meta") if config.noise_levels else None,
            meta(rows) if config.guidance_dim else None,
        )

    vae = networks["vae"]
    assert isinstance(vae, AutoencoderKL)
    with torch.no_grad():
        step = peak_nbytes(unet)
        picture = peak_nbytes(lambda: vae.decode(meta(1, family.vae.latent_channels, side, side)))
    return {"unet": step // (rows * side * side), "decode": picture // (side * side)}


def text() -> str:
    """The file."""
    return json.dumps(table(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE, file=sys.stderr)
