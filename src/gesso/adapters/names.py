"""Module names of adapter files, in each format's spelling -> the modules of gesso's networks.

All names are made forward, from the names of our parameters through the tables of `gesso.checkpoints`. The names of
trainers write dots as underscores; underscores are ambiguous to read, so they are looked up and never parsed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from gesso.checkpoints import diffusers, ldm
from gesso.checkpoints.keymap import TRANSPOSE, Rule, expand
from gesso.checkpoints.shared import openclip_rules
from gesso.models.clip import CLIPTextModel
from gesso.models.unet import UNet

# What stands before the names of a component, for each layout of `ldm.TOWERS`.
_KOHYA: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sd1": {"unet": ("unet_",), "text": ("te_",)},
    "sd2": {"unet": ("unet_",), "text": ("te_",)},
    "sdxl": {"unet": ("unet_",), "text": ("te1_",), "text_2": ("te2_",)},
    "refiner": {"unet": ("unet_",), "text": ("te2_", "te_")},
}
_KOHYA_STARTS = ("lora_", "oft_", "lycoris_")
# LyCORIS wraps one network at a time and does not say which, so that its names begin with the module: SimpleTuner.
_BARE_START = "lycoris_"
# The first is what PEFT and diffusers write; then ComfyUI's "LoraSave" (after the names in its model), OneTrainer's,
# and names of whole checkpoints, as scripts that subtract one checkpoint from another leave them.
_UNET = ("unet.", "", "diffusion_model.", "model.diffusion_model.")
_DOTTED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sd1": {
        "unet": _UNET,
        "text": ("text_encoder.", "", "text_encoders.clip_l.transformer.", "clip_l.", "cond_stage_model.transformer."),
    },
    "sd2": {
        "unet": _UNET,
        "text": ("text_encoder.", "", "text_encoders.clip_h.transformer.", "clip_h.", "cond_stage_model.model."),
    },
    "sdxl": {
        "unet": _UNET,
        "text": (
            "text_encoder.",
            "",
            "text_encoders.clip_l.transformer.",
            "clip_l.",
            "conditioner.embedders.0.transformer.",
        ),
        "text_2": (
            "text_encoder_2.",
            "text_encoders.clip_g.transformer.",
            "clip_g.",
            "conditioner.embedders.1.model.",
        ),
    },
    "refiner": {
        "unet": _UNET,
        "text": (
            "text_encoder_2.",
            "",
            "text_encoders.clip_g.transformer.",
            "clip_g.",
            "conditioner.embedders.0.model.",
        ),
    },
}
# Parts of gesso-mini's UNet that no table of other tools knows.
_OWN_PARTS = ("draft.",)


@dataclass(frozen=True)
class ModulePlace:
    """The modules that a module of a file stands for: one, or three whose weights the file stacks (q, k, v)."""

    component: str
    modules: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Target:
    """The model that an adapter is read for; its networks may be on the meta device.

    name      of the family, for messages
    layout    of `ldm.TOWERS`
    networks  unet, text and, in SDXL, text_2; others are left alone
    """

    name: str
    layout: str
    networks: Mapping[str, nn.Module]

    @property
    def context_dim(self) -> int | None:
        """The width of the text embeddings that the UNet takes; None without a UNet."""
        unet = self.networks.get("unet")
        return unet.config.context_dim if isinstance(unet, UNet) else None

    @cached_property
    def stems(self) -> Mapping[str, ModulePlace]:
        """Names with underscores, as kohya's trainer and LyCORIS write them: "lora_unet_down_blocks_0_..."; of two text
        encoders, a name that does not say which stands for the first."""
        places: dict[str, ModulePlace] = {}
        for component, spellings in self._spellings.items():
            starts = [first + prefix for prefix in _KOHYA[self.layout][component] for first in _KOHYA_STARTS]
            starts.append(_BARE_START)
            for spelling in spellings:
                for name, modules in spelling.items():
                    for start in starts:
                        places.setdefault(start + name.replace(".", "_"), ModulePlace(component, modules))
        return places

    @cached_property
    def dotted(self) -> Mapping[str, ModulePlace]:
        """Names with dots, as PEFT and diffusers write them: "unet.down_blocks.0...."; also without the first word, and
        with what ComfyUI, OneTrainer and whole checkpoints have in its place."""
        places: dict[str, ModulePlace] = {}
        for component, spellings in self._spellings.items():
            for prefix in _DOTTED[self.layout][component]:
                for spelling in spellings:
                    for name, modules in spelling.items():
                        places.setdefault(prefix + name, ModulePlace(component, modules))
        return places

    def stem_of(self, component: str, module: str) -> str:
        """The name that kohya's trainer gives to one of our modules: SDXL by latent-diffusion's names, others by those
        of diffusers."""
        name = self._written["ldm" if self.layout in ("sdxl", "refiner") else "diffusers"][f"{component}.{module}"]
        return f"lora_{_KOHYA[self.layout][component][0]}{name.replace('.', '_')}"

    def dotted_of(self, component: str, module: str) -> str:
        """The name that PEFT and diffusers give to one of our modules."""
        return _DOTTED[self.layout][component][0] + self._written["diffusers"][f"{component}.{module}"]

    def is_pointwise(self, component: str, module: str) -> bool:
        """Whether a layer that is linear here is a 1x1 convolution in files, whose factors then end in [.., 1, 1]."""
        return self.layout == "sd1" and component == "unet" and module.endswith((".proj_in", ".proj_out"))

    @cached_property
    def _components(self) -> Mapping[str, nn.Module]:
        return {name: net for name, net in self.networks.items() if name in _KOHYA[self.layout]}

    @cached_property
    def _spellings(self) -> Mapping[str, Sequence[Mapping[str, tuple[str, ...]]]]:
        """Per component: tables of names, those of diffusers first, our own last."""
        spellings: dict[str, Sequence[Mapping[str, tuple[str, ...]]]] = {}
        for component, network in self._components.items():
            own = {name: (name,) for name, _ in _owners(network)}
            spellings[component] = [*(_modules(rules, network) for rules in self._rules(network).values()), own]
        return spellings

    @cached_property
    def _written(self) -> Mapping[str, Mapping[str, str]]:
        """Table -> our module -> its name there; our own name where the table has none."""
        names_of: dict[str, dict[str, str]] = {"diffusers": {}, "ldm": {}}
        for component, network in self._components.items():
            for table, rules in self._rules(network).items():
                names = {module: module for module, _ in _owners(network)}
                if table == "openclip":  # trainers name the text encoders as transformers does
                    continue
                for name, modules in _modules(rules, network, saved=True).items():
                    names[modules[0]] = name
                names_of[table] |= {f"{component}.{module}": name for module, name in names.items()}
                if isinstance(network, CLIPTextModel):
                    names_of["ldm"] |= {f"{component}.{module}": name for module, name in names.items()}
        return names_of

    def _rules(self, network: nn.Module) -> Mapping[str, Sequence[Rule]]:
        if isinstance(network, UNet):
            linear = self.layout != "sd1"
            return {
                "diffusers": diffusers.unet_rules(network.config, linear=linear),
                "ldm": ldm.unet_rules(network.config, linear=linear),
            }
        return {"diffusers": diffusers.text_rules(), "openclip": openclip_rules()}


def _owners(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have parameters of their own."""
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            yield name, module


def _modules(rules: Sequence[Rule], network: nn.Module, *, saved: bool = False) -> dict[str, tuple[str, ...]]:
    """Names of modules in a table -> our modules. saved: only the spelling that saving uses."""
    params = [name for name, _ in network.named_parameters() if not name.startswith(_OWN_PARTS)]
    modules_of = {}
    for row in expand(rules, params):
        if row.transform is TRANSPOSE or (saved and row.load_only):
            continue
        if row.file.endswith((".in_proj_weight", ".in_proj_bias")):
            module = row.file.rpartition("_")[0]
        else:
            module, dot, kind = row.file.rpartition(".")
            if not dot or kind not in ("weight", "bias"):
                continue
        modules_of[module] = tuple(native.rpartition(".")[0] for native in row.natives)
    return modules_of
