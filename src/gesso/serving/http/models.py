"""What there is to draw with: models, adapters, samplers, schedules, and the schema of requests."""

from typing import Any
from urllib.parse import quote

from fastapi import Response

from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import one_line
from gesso.library.entry import BUILTIN, LibraryEntry
from gesso.request.json_schema import request_schema
from gesso.serving.http.checking import facts_of
from gesso.serving.http.context import Call, Calling
from gesso.serving.http.operations import Media, Routes, operation
from gesso.serving.http.problems import JsonAnswer, not_found
from gesso.serving.http.schemas import AdapterList, ModelList, ModelResource, SamplerList, ScheduleList

router = Routes()
TAG = "Models"
MAX_TEXT = 500  # characters of what a model's author wrote
MAX_TEXTS = 40


@operation(router, "GET", "/v1/models", id="listModels", rule="read", tag=TAG, summary="All models", answer=ModelList)
def list_models(call: Calling) -> Response:
    """The models of the server's library that can be drawn with."""
    loaded = _loaded(call)
    return JsonAnswer({"models": [_model(entry, loaded) for entry in call.context.checker.models()]})


@operation(
    router,
    "GET",
    "/v1/models/{name}",
    id="getModel",
    rule="read",
    tag=TAG,
    summary="One model",
    answer=ModelResource,
)
def get_model(call: Calling, name: str) -> Response:
    """What a model is, what it needs and what a request gets by default."""
    for entry in call.context.checker.models():
        if entry.name.casefold() == name.casefold():
            return JsonAnswer(_model(entry, _loaded(call)))
    raise not_found("model")


@operation(
    router,
    "GET",
    "/v1/adapters",
    id="listAdapters",
    rule="read",
    tag=TAG,
    summary="LoRA, ControlNet and other files that requests may name",
    answer=AdapterList,
)
def list_adapters(call: Calling) -> Response:
    """By the names that requests have for them."""
    found = [
        {
            "name": entry.name,
            "kind": kind,
            "family": entry.family,
            "description": one_line(entry.what)[:MAX_TEXT],
            "size_bytes": entry.nbytes,
            "builtin": entry.origin == BUILTIN,
        }
        for kind, entry in call.context.checker.adapters()
    ]
    return JsonAnswer({"adapters": found})


@operation(
    router, "GET", "/v1/samplers", id="listSamplers", rule="read", tag=TAG, summary="All samplers", answer=SamplerList
)
def list_samplers(call: Calling) -> Response:
    """Each with its names in other tools."""
    found = [
        {
            "name": name,
            "label": row.label,
            "aliases": list(row.aliases),
            "order": row.order,
            "stochastic": row.stochastic,
            "calls_per_step": row.calls_per_step,
            "schedule": row.schedule,
        }
        for name, row in SAMPLERS.items()
    ]
    return JsonAnswer({"samplers": found})


@operation(
    router,
    "GET",
    "/v1/schedules",
    id="listSchedules",
    rule="read",
    tag=TAG,
    summary="All schedules",
    answer=ScheduleList,
)
def list_schedules(call: Calling) -> Response:
    """Each with its names in other tools."""
    found = [{"name": name, "label": row.label, "aliases": list(row.aliases)} for name, row in SCHEDULES.items()]
    return JsonAnswer({"schedules": found})


@operation(
    router,
    "GET",
    "/v1/schema",
    id="getRequestSchema",
    rule="read",
    tag=TAG,
    summary="The JSON Schema of a request",
    answer=Media(("application/schema+json",), {"type": "object"}),
)
def get_schema(call: Calling) -> Response:
    """Every field of `request`, in draft 2020-12, with help and the names in other tools: enough to make a form of."""
    return JsonAnswer(request_schema(), media_type="application/schema+json")


def _loaded(call: Call) -> set[str]:
    return {model for worker in call.context.store.workers() for model in worker.models}


def _model(entry: LibraryEntry, loaded: set[str]) -> dict[str, Any]:
    facts = facts_of(entry)
    needs = {"edit": ["image"], "upscale": ["image"]}.get(facts.kind, [])
    takes = ["image"] if facts.kind in ("edit", "upscale") else ["image", "mask", "hint"]
    metadata = list(entry.metadata.items())[:MAX_TEXTS]
    return {
        "name": entry.name,
        "family": entry.family,
        "description": one_line(entry.what)[:MAX_TEXT],
        "builtin": entry.origin == BUILTIN,
        "loaded": entry.name in loaded,
        "parameters": entry.num_params,
        "size_bytes": entry.nbytes,
        "dtypes": list(entry.dtypes),
        "sha256": entry.files[0].sha256 if len(entry.files) == 1 else None,
        "needs": needs,
        "takes": takes,
        "defaults": {
            "width": facts.size,
            "height": facts.size,
            "num_steps": facts.num_steps,
            "guidance_scale": facts.guidance_scale,
            "sampler": facts.sampler,
            "schedule": facts.schedule,
            "size_multiple": facts.multiple,
            "max_clip_skip": facts.max_clip_skip,
        },
        "metadata": {one_line(str(key))[:100]: one_line(str(value))[:MAX_TEXT] for key, value in metadata},
        "url": f"/v1/models/{quote(entry.name, safe='')}",
    }
