"""Library entries. Standard library only: listing models must not wait for torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Kind -> folder of that kind inside the library. The folders are ComfyUI's, so that it can be pointed here as well.
KIND_FOLDERS: Mapping[str, str] = {
    "checkpoint": "checkpoints",
    "vae": "vae",
    "lora": "loras",
    "embedding": "embeddings",
    "controlnet": "controlnet",
    "t2i_adapter": "t2i_adapter",
    "ip_adapter": "ipadapter",
    "taesd": "vae_approx",
    "upscaler": "upscale_models",
    "unet": "diffusion_models",
    "text_encoder": "text_encoders",
    "clip_vision": "clip_vision",
    "hypernetwork": "hypernetworks",
    "other": "other",
}
KINDS = tuple(KIND_FOLDERS)

# Where a model comes from, and thereby what may be done with it.
BUILTIN = "carried"  # built into the package; the name is part of the JSON
OWNED = "library"  # a file of the library
LINKED = "linked"  # a link in the library to a file elsewhere
IN_PLACE = "in place"  # registered where it is
IN_FOLDER = "folder"  # in a registered folder
HUB = "hub"  # in the cache of a hub's client


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One weight file. The hashes are None until someone needed them.

    name    path below the model's folder with slashes, or the name of the file
    sha256  of the whole file; its first ten digits are AutoV2, the "model hash" of A1111
    autov1  the old model hash of A1111: of 64 KiB from 1 MiB on
    autov3  of the tensor data alone, without the header: stays when metadata change
    """

    name: str
    path: Path
    nbytes: int
    mtime_ns: int
    sha256: str | None = None
    autov1: str | None = None
    autov3: str | None = None

    @property
    def autov2(self) -> str | None:
        """Ten digits, or None."""
        return self.sha256[:10] if self.sha256 else None


@dataclass(frozen=True, kw_only=True)
class LibraryEntry:
    """One model: a file, or a folder in the layout of diffusers.

    what       description of its contents
    family     of a checkpoint: the family that loads it; of a part or an adapter: the one that it fits. None where
               gesso cannot tell, or does not load it
    problem    why it cannot be read, or None
    metadata   what its author wrote: to be shown as text, not to be trusted
    origin     one of the constants above
    source     where an import came from: a path, or "hf:organisation/name@commit"
    folder     the registered folder that it was found in
    added      date and time of day, ISO 8601, UTC
    """

    name: str
    path: Path
    kind: str
    family: str | None = None
    layout: str = "other"
    what: str = ""
    dtypes: tuple[str, ...] = ()
    num_tensors: int = 0
    num_params: int = 0
    files: tuple[ModelFile, ...] = ()
    metadata: Mapping[str, str]
    problem: str | None = None
    origin: str
    source: str | None = None
    folder: Path | None = None
    added: str | None = None

    @property
    def nbytes(self) -> int:
        """Of all weight files."""
        return sum(file.nbytes for file in self.files)

    @property
    def model_hash(self) -> str | None:
        """A1111's model hash, of the first file."""
        return self.files[0].autov2 if self.files else None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "path": str(self.path),
            "kind": self.kind,
            "family": self.family,
            "layout": self.layout,
            "what": self.what,
            "dtypes": list(self.dtypes),
            "tensors": self.num_tensors,
            "parameters": self.num_params,
            "bytes": self.nbytes,
            "files": [file_to_dict(file) for file in self.files],
            "metadata": dict(self.metadata),
            "problem": self.problem,
            "origin": self.origin,
            "source": self.source,
            "folder": str(self.folder) if self.folder else None,
            "added": self.added,
        }


def file_to_dict(file: ModelFile) -> dict[str, Any]:
    """For `--json`."""
    return {
        "name": file.name,
        "path": str(file.path),
        "bytes": file.nbytes,
        "sha256": file.sha256,
        "autov1": file.autov1,
        "autov2": file.autov2,
        "autov3": file.autov3,
    }
