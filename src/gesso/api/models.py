"""What there is to draw with: models, adapters, samplers, schedules, and the schema of requests."""

from typing import Any
from urllib.parse import quote

from fastapi import Response

from gesso.api.cards import EMBEDDED, file_hash, license_of, text_of, thumbnail, thumbnail_url, trigger_words
from gesso.api.checking import facts_of
from gesso.api.context import Call, Calling
from gesso.api.files import POLICY
from gesso.api.operations import Media, Routes, operation
from gesso.api.problems import HttpError, JsonAnswer, not_found
from gesso.api.schemas import AdapterList, ModelList, ModelResource, SamplerList, ScheduleList
from gesso.diffusion.sampler_table import SAMPLERS
from gesso.diffusion.schedule_table import SCHEDULES
from gesso.errors import one_line
from gesso.library.entry import BUILTIN, LibraryEntry
from gesso.request.json_schema import request_schema
from gesso.serving.thumbnails import CONTENT_TYPE

router = Routes()
TAG = "Models"
MAX_TEXT = 500  # characters of what a model's author wrote
MAX_TEXTS = 40
SMALL = 0.02  # what a thumbnail counts for against the rate


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
            "sha256": file_hash(entry) if len(entry.files) == 1 else None,
            **_card(kind, entry),
        }
        for kind, entry in call.context.checker.adapters()
    ]
    return JsonAnswer({"adapters": found})


@operation(
    router,
    "GET",
    "/v1/models/{name}/thumbnail",
    id="getModelThumbnail",
    rule="read",
    tag=TAG,
    summary="The picture of a model",
    answer=Media((CONTENT_TYPE,), {"type": "string", "format": "binary"}),
    cost=SMALL,
)
def get_model_thumbnail(call: Calling, name: str) -> Response:
    """That in its file, or a picture of the same name beside it. WebP, small."""
    models = call.context.checker.models()
    return _thumbnail(next((entry for entry in models if entry.name.casefold() == name.casefold()), None))


@operation(
    router,
    "GET",
    "/v1/adapters/{kind}/{name}/thumbnail",
    id="getAdapterThumbnail",
    rule="read",
    tag=TAG,
    summary="The picture of an adapter",
    answer=Media((CONTENT_TYPE,), {"type": "string", "format": "binary"}),
    cost=SMALL,
)
def get_adapter_thumbnail(call: Calling, kind: str, name: str) -> Response:
    """As of a model."""
    adapters = call.context.checker.adapters()
    return _thumbnail(
        next((entry for own, entry in adapters if own == kind and entry.name.casefold() == name.casefold()), None)
    )


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
    return {
        "name": entry.name,
        "family": entry.family,
        "description": one_line(entry.what)[:MAX_TEXT],
        "builtin": entry.origin == BUILTIN,
        "loaded": entry.name in loaded,
        "parameters": entry.num_params,
        "size_bytes": entry.nbytes,
        "dtypes": list(entry.dtypes),
        "sha256": file_hash(entry) if len(entry.files) == 1 else None,
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
        **_card("model", entry),
        "url": f"/v1/models/{quote(entry.name, safe='')}",
    }


def _card(kind: str, entry: LibraryEntry) -> dict[str, Any]:
    """What its author says of it."""
    metadata = [(key, value) for key, value in entry.metadata.items() if key != EMBEDDED][:MAX_TEXTS]
    return {
        "title": text_of(entry, "modelspec.title", "ss_output_name"),
        "author": text_of(entry, "modelspec.author"),
        "license": license_of(entry),
        "trigger_words": trigger_words(entry),
        "added_at": entry.added,
        "metadata": {one_line(str(key))[:100]: one_line(str(value))[:MAX_TEXT] for key, value in metadata},
        "thumbnail_url": thumbnail_url(kind, entry),
    }


def _thumbnail(entry: LibraryEntry | None) -> Response:
    made = None if entry is None else thumbnail(entry)
    if made is None:
        raise HttpError(404, "not_found", "there is no picture of it")
    headers = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": POLICY, "Vary": "Authorization"}
    return Response(made, media_type=CONTENT_TYPE, headers=headers)
