"""The names that a graph may use here: models and adapters of the library as files, pictures that were uploaded."""

from collections.abc import Iterator, Mapping

from gesso.api.checking import Checker, facts_of
from gesso.library.entry import LibraryEntry
from gesso.surfaces.comfy.translating import Files, ModelFacts, sampler_names, schedule_names

# Families whose text encoder may stop at an earlier layer, as the classes of ComfyUI that it means do.
_SKIPS = ("sd15", "sd15-inpaint", "instruct-pix2pix", "sd15-lcm", "sd15-lcm-full", "gesso-mini")
# Folder of models in ComfyUI -> the list that has its files here.
FOLDERS: Mapping[str, str] = {
    "checkpoints": "checkpoints",
    "loras": "loras",
    "vae": "vae",
    "text_encoders": "clip",
    "clip": "clip",
    "diffusion_models": "diffusion_models",
    "unet": "diffusion_models",
    "controlnet": "controlnet",
    "embeddings": "embeddings",
    "upscale_models": "upscale_models",
    "configs": "configs",
}


def lists_of(checker: Checker) -> dict[str, list[str]]:
    """What inputs choose from, but for pictures."""
    models = [file for file, _ in _files(checker.models())]
    adapters = {kind: [file for file, _ in _files(_of_kind(checker, kind))] for kind in ("lora", "control", "upscaler")}
    return {
        "checkpoints": models,
        "diffusion_models": models,
        "clip": models,
        "vae": models,
        "loras": adapters["lora"],
        "controlnet": adapters["control"],
        "upscale_models": adapters["upscaler"],
        "embeddings": sorted({entry.name for entry in _of_kind(checker, "embedding")}),
        "configs": [],
        "samplers": sampler_names(),
        "schedulers": schedule_names(),
    }


def files_of(checker: Checker) -> Files:
    """What these names are in the library."""
    return Files(
        models={file: _facts(entry) for file, entry in _files(checker.models())},
        loras={file: entry.name for file, entry in _files(_of_kind(checker, "lora"))},
        controls={file: entry.name for file, entry in _files(_of_kind(checker, "control"))},
        upscalers={file: entry.name for file, entry in _files(_of_kind(checker, "upscaler"))},
    )


def _of_kind(checker: Checker, kind: str) -> Iterator[LibraryEntry]:
    return (entry for own, entry in checker.adapters() if own == kind)


def _files(entries: Iterator[LibraryEntry]) -> list[tuple[str, LibraryEntry]]:
    """Entries with the names of their files, or of their folders, sorted; the first of each name."""
    found: dict[str, LibraryEntry] = {}
    for entry in entries:
        ending = entry.path.suffix if entry.path.suffix and not entry.name.endswith(entry.path.suffix) else ""
        found.setdefault(f"{entry.name}{ending}", entry)
    return sorted(found.items(), key=lambda one: one[0].casefold())


def _facts(entry: LibraryEntry) -> ModelFacts:
    family, facts = str(entry.family), facts_of(entry)
    is_xl = family.startswith("sdxl")
    return ModelFacts(
        name=entry.name,
        kind=facts.kind,
        takes_skip=family in _SKIPS,
        own_skip=1 if family in _SKIPS else 2,
        zeroed=is_xl,
    )
