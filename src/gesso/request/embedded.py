"""Built-in LoRA and ControlNet files, which a request can name without installing anything."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

# Kind, as a finder's -> name -> file in gesso/data.
EMBEDDED_EXTRAS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "lora": MappingProxyType({"comic": "comic.safetensors", "woodcut": "woodcut.safetensors"}),
        "embedding": MappingProxyType({}),
        "control": MappingProxyType({"gesso-edges": "gesso-edges.safetensors"}),
        "upscaler": MappingProxyType({}),
    }
)


def embedded_extras(kind: str) -> dict[str, Path]:
    """Name -> file of one kind; those that this installation lacks are left out."""
    data = resources.files("gesso") / "data"
    files = {name: Path(str(data / file)) for name, file in EMBEDDED_EXTRAS.get(kind, {}).items()}
    return {name: path for name, path in files.items() if path.is_file()}
