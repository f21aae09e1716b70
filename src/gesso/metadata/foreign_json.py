"""JSON in a text that is no infotext: which tool wrote it, by its fields."""

import json
import re
from collections.abc import Mapping
from typing import Any

from gesso.metadata.comfyui import from_graph, from_workflow
from gesso.metadata.draw_things import from_draw_things
from gesso.metadata.easy_diffusion import from_easy_diffusion, is_easy_diffusion
from gesso.metadata.fooocus import from_fooocus
from gesso.metadata.invokeai import from_metadata, from_old_metadata
from gesso.metadata.novelai import from_comment, from_novelai, is_novelai
from gesso.metadata.picture_metadata import PictureMetadata
from gesso.metadata.swarmui import from_swarmui

MAX_CHARS = 8 * 2**20
_BEGINS = re.compile(r'\s*\{\s*"[^"]*"\s*:')


def object_in(text: str) -> dict[str, Any] | None:
    """The object of a text that is JSON, as leniently as other tools read it; None for any other text."""
    value = _value_in(text)
    return value if isinstance(value, dict) else None


def is_json(text: str) -> bool:
    """Whether a text is an object or a list of JSON, or the beginning of one, and so no prompt."""
    return _value_in(text) is not None or _BEGINS.match(text) is not None


def _value_in(text: str) -> dict[str, Any] | list[Any] | None:
    text = text.strip().strip("\0")
    if text[:1] + text[-1:] not in ("{}", "[]") or len(text) > MAX_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and value else None


def from_object(stored: Mapping[str, Any]) -> PictureMetadata | None:
    """The settings in an object of SwarmUI, Fooocus, Easy Diffusion, InvokeAI, NovelAI, Draw Things or ComfyUI.

    None for any other. Raises GessoError for one of these that cannot be read.
    """
    if isinstance(stored.get("sui_image_params"), dict) or "swarm_version" in stored:
        return from_swarmui(stored)
    if _is_fooocus(stored):
        return from_fooocus(stored)
    if is_easy_diffusion(stored):
        return from_easy_diffusion(stored)
    if is_novelai(stored):
        return from_novelai(stored)
    if "c" in stored and "uc" in stored:
        return from_draw_things(stored)
    if "uc" in stored and ("scale" in stored or "steps" in stored):
        return from_comment(stored, {})
    if "positive_prompt" in stored and ("app_version" in stored or "scheduler" in stored):
        return from_metadata(stored)
    if "model_weights" in stored and "image" in stored:
        return from_old_metadata(stored)
    return _comfyui(stored)


def _is_fooocus(stored: Mapping[str, Any]) -> bool:
    words = " ".join(str(stored.get(key, ""))[:64] for key in ("metadata_scheme", "version", "Version", "software"))
    return "fooocus" in words.lower() or ("base_model" in stored and "prompt" in stored) or "Base Model" in stored


def _comfyui(stored: Mapping[str, Any]) -> PictureMetadata | None:
    """A graph, a drawing, or an object that holds one or both."""
    if any(isinstance(node, dict) and "class_type" in node for node in stored.values()):
        return from_graph(json.dumps(stored))
    if isinstance(stored.get("nodes"), list):
        return from_workflow(json.dumps(stored))
    for key in ("prompt", "workflow"):
        inner = stored.get(key)
        found = object_in(inner) if isinstance(inner, str) else inner if isinstance(inner, dict) else None
        if found and (metadata := _comfyui(found)) is not None:
            return metadata
    return None
