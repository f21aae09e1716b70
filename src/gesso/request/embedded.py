"""Built-in LoRA and ControlNet files, which a request can name without installing anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Kind, as a finder's -> name -> file in gesso/data.
EMBEDDED_EXTRAS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "lora": MappingProxyType({name: f"{name}.safetensors" for name in ("comic", "few-steps", "woodcut")}),
        "embedding": MappingProxyType({}),
        "control": MappingProxyType({"gesso-edges": "gesso-edges.safetensors"}),
        "upscaler": MappingProxyType({}),
    }
)


@dataclass(frozen=True)
class FewSteps:
    """How a model draws in a few steps: a LoRA that was distilled for it, and the settings it was distilled for.

    values: of a request's fields, by their names
    """

    lora: str
    values: Mapping[str, Any]


# By the name of a built-in model; a test compares the settings with those of the training.
FEW_STEPS: Mapping[str, FewSteps] = MappingProxyType(
    {
        "gesso-mini": FewSteps(
            "few-steps",
            MappingProxyType(
                {"num_steps": 4, "guidance_scale": 1.0, "sampler": "euler", "schedule": "sgm_uniform"},
            ),
        )
    }
)


def embedded_extras(kind: str) -> dict[str, Path]:
    """Name -> file of one kind; those that this installation lacks are left out."""
    data = resources.files("gesso") / "data"
    files = {name: Path(str(data / file)) for name, file in EMBEDDED_EXTRAS.get(kind, {}).items()}
    return {name: path for name, path in files.items() if path.is_file()}
