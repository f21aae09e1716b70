"""gesso: text to image in native PyTorch.

This module holds the public API and imports each name on first use, so that `import gesso` and `gesso --help` stay
fast and touch neither torch nor a device. docs/python.md shows how to use the names together.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time __getattr__ below does the same, later
    from gesso.checkpoints.errors import ModelFileError
    from gesso.diffusion.noise import NoiseSource
    from gesso.diffusion.noise_schedule import NoiseSchedule
    from gesso.diffusion.sampler_row import Sampler
    from gesso.diffusion.sampler_table import SAMPLERS
    from gesso.diffusion.samplers.seam import ModelCall, Sampling
    from gesso.diffusion.schedule_table import SCHEDULES, Schedule
    from gesso.errors import GessoError
    from gesso.events import (
        Event,
        EventStream,
        ModelLoaded,
        ModelLoading,
        PictureDone,
        PlanChosen,
        RecomputedInFloat32,
        StepDone,
    )
    from gesso.families.base import Family, FamilyDefaults
    from gesso.families.registry import FAMILIES
    from gesso.hints.registry import PREPROCESSORS, Preprocessor, PreprocessorParameter
    from gesso.library.entry import LibraryEntry
    from gesso.library.finder import LibraryFinder
    from gesso.library.library import Library
    from gesso.metadata.editing import copy_metadata, strip_metadata
    from gesso.metadata.picture_metadata import PictureMetadata
    from gesso.metadata.reading import read_metadata
    from gesso.notices import Notice
    from gesso.pictures.picture_file import read_picture, read_recipe
    from gesso.pictures.preprocessing import preprocess
    from gesso.pictures.reading import read_hint, read_image, read_mask
    from gesso.pipelines.given_tensors import PromptEmbeddings
    from gesso.pipelines.hint_pictures import hint_digest
    from gesso.pipelines.picture import Picture, Progress
    from gesso.pipelines.text_to_image import TextToImage
    from gesso.pipelines.upscaling import UPSCALERS, ImageUpscaler, upscale
    from gesso.registry import PluginError, Registry
    from gesso.request.checks import RequestError
    from gesso.request.conventions import Conventions
    from gesso.request.environment import Environment
    from gesso.request.finder import Finder, NamedFiles
    from gesso.request.groups import Mask, Source, Tiles, Variation
    from gesso.request.json_schema import request_schema
    from gesso.request.parts import ControlUse, HiresPass, LoraUse
    from gesso.request.presets import PRESETS
    from gesso.request.recipe import ExtraFile, Recipe, WeightFile
    from gesso.request.request import ResolvedRequest, TextToImageRequest
    from gesso.runtime.cancel import CancelledError, CancelToken
    from gesso.runtime.engine import Engine
    from gesso.runtime.finite import NotFiniteError
    from gesso.runtime.model import LoadedModel
    from gesso.runtime.upscaling import Upscaler, load_upscaler
    from gesso.studio.replay import Verdict, replay, replay_recipe
    from gesso.studio.sources import Sources
    from gesso.studio.studio import EngineOptions, ModelChoice, RecipePlaces, Studio
    from gesso.text.dialects import DIALECTS, Dialect, weighted_dialect
    from gesso.text.prompt import PromptError, WeightedText

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is logged is the application's to show

# Public name -> the module that defines it.
_PUBLIC = {
    # Drawing.
    "CancelToken": "gesso.runtime.cancel",
    "Engine": "gesso.runtime.engine",
    "EngineOptions": "gesso.studio.studio",
    "LoadedModel": "gesso.runtime.model",
    "ModelChoice": "gesso.studio.studio",
    "Notice": "gesso.notices",
    "Picture": "gesso.pipelines.picture",
    "Progress": "gesso.pipelines.picture",
    "PromptEmbeddings": "gesso.pipelines.given_tensors",
    "Studio": "gesso.studio.studio",
    "TextToImage": "gesso.pipelines.text_to_image",
    # What to draw.
    "ControlUse": "gesso.request.parts",
    "Conventions": "gesso.request.conventions",
    "HiresPass": "gesso.request.parts",
    "LoraUse": "gesso.request.parts",
    "Mask": "gesso.request.groups",
    "PRESETS": "gesso.request.presets",
    "ResolvedRequest": "gesso.request.request",
    "Source": "gesso.request.groups",
    "TextToImageRequest": "gesso.request.request",
    "Tiles": "gesso.request.groups",
    "Variation": "gesso.request.groups",
    "request_schema": "gesso.request.json_schema",
    # Files: models, LoRA, ControlNet.
    "LibraryEntry": "gesso.library.entry",
    "Finder": "gesso.request.finder",
    "Library": "gesso.library.library",
    "LibraryFinder": "gesso.library.finder",
    "NamedFiles": "gesso.request.finder",
    # Pictures in files.
    "PictureMetadata": "gesso.metadata.picture_metadata",
    "copy_metadata": "gesso.metadata.editing",
    "hint_digest": "gesso.pipelines.hint_pictures",
    "read_hint": "gesso.pictures.reading",
    "read_image": "gesso.pictures.reading",
    "read_mask": "gesso.pictures.reading",
    "read_metadata": "gesso.metadata.reading",
    "read_picture": "gesso.pictures.picture_file",
    "strip_metadata": "gesso.metadata.editing",
    # Recipes.
    "Environment": "gesso.request.environment",
    "ExtraFile": "gesso.request.recipe",
    "Recipe": "gesso.request.recipe",
    "RecipePlaces": "gesso.studio.studio",
    "Sources": "gesso.studio.sources",
    "Verdict": "gesso.studio.replay",
    "WeightFile": "gesso.request.recipe",
    "read_recipe": "gesso.pictures.picture_file",
    "replay": "gesso.studio.replay",
    "replay_recipe": "gesso.studio.replay",
    # Pictures without a prompt.
    "Upscaler": "gesso.runtime.upscaling",
    "load_upscaler": "gesso.runtime.upscaling",
    "preprocess": "gesso.pictures.preprocessing",
    "upscale": "gesso.pipelines.upscaling",
    # Tables, and what a plug-in adds to them.
    "DIALECTS": "gesso.text.dialects",
    "FAMILIES": "gesso.families.registry",
    "PREPROCESSORS": "gesso.hints.registry",
    "SAMPLERS": "gesso.diffusion.sampler_table",
    "SCHEDULES": "gesso.diffusion.schedule_table",
    "UPSCALERS": "gesso.pipelines.upscaling",
    "Dialect": "gesso.text.dialects",
    "Family": "gesso.families.base",
    "FamilyDefaults": "gesso.families.base",
    "ImageUpscaler": "gesso.pipelines.upscaling",
    "ModelCall": "gesso.diffusion.samplers.seam",
    "NoiseSchedule": "gesso.diffusion.noise_schedule",
    "NoiseSource": "gesso.diffusion.noise",
    "PreprocessorParameter": "gesso.hints.registry",
    "Preprocessor": "gesso.hints.registry",
    "Registry": "gesso.registry",
    "Sampler": "gesso.diffusion.sampler_row",
    "Sampling": "gesso.diffusion.samplers.seam",
    "Schedule": "gesso.diffusion.schedule_table",
    "WeightedText": "gesso.text.prompt",
    "weighted_dialect": "gesso.text.dialects",
    # Events of an engine.
    "Event": "gesso.events",
    "EventStream": "gesso.events",
    "ModelLoaded": "gesso.events",
    "ModelLoading": "gesso.events",
    "RecomputedInFloat32": "gesso.events",
    "PictureDone": "gesso.events",
    "PlanChosen": "gesso.events",
    "StepDone": "gesso.events",
    # Errors.
    "CancelledError": "gesso.runtime.cancel",
    "GessoError": "gesso.errors",
    "ModelFileError": "gesso.checkpoints.errors",
    "NotFiniteError": "gesso.runtime.finite",
    "PluginError": "gesso.registry",
    "PromptError": "gesso.text.prompt",
    "RequestError": "gesso.request.checks",
}

__all__ = [
    "DIALECTS",
    "FAMILIES",
    "PREPROCESSORS",
    "PRESETS",
    "SAMPLERS",
    "SCHEDULES",
    "UPSCALERS",
    "CancelToken",
    "CancelledError",
    "ControlUse",
    "Conventions",
    "Dialect",
    "Engine",
    "EngineOptions",
    "Environment",
    "Event",
    "EventStream",
    "ExtraFile",
    "Family",
    "FamilyDefaults",
    "Finder",
    "GessoError",
    "HiresPass",
    "ImageUpscaler",
    "Library",
    "LibraryEntry",
    "LibraryFinder",
    "LoadedModel",
    "LoraUse",
    "Mask",
    "ModelCall",
    "ModelChoice",
    "ModelFileError",
    "ModelLoaded",
    "ModelLoading",
    "NamedFiles",
    "NoiseSchedule",
    "NoiseSource",
    "NotFiniteError",
    "Notice",
    "Picture",
    "PictureDone",
    "PictureMetadata",
    "PlanChosen",
    "PluginError",
    "Preprocessor",
    "PreprocessorParameter",
    "Progress",
    "PromptEmbeddings",
    "PromptError",
    "Recipe",
    "RecipePlaces",
    "RecomputedInFloat32",
    "Registry",
    "RequestError",
    "ResolvedRequest",
    "Sampler",
    "Sampling",
    "Schedule",
    "Source",
    "Sources",
    "StepDone",
    "Studio",
    "TextToImage",
    "TextToImageRequest",
    "Tiles",
    "Upscaler",
    "Variation",
    "Verdict",
    "WeightFile",
    "WeightedText",
    "__version__",
    "copy_metadata",
    "hint_digest",
    "load_upscaler",
    "preprocess",
    "read_hint",
    "read_image",
    "read_mask",
    "read_metadata",
    "read_picture",
    "read_recipe",
    "replay",
    "replay_recipe",
    "request_schema",
    "strip_metadata",
    "upscale",
    "weighted_dialect",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value  # the next use is a plain lookup
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
