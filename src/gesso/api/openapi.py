"""openapi.json: the API for programs that write clients. Committed as docs/openapi.json, made by

python -m gesso.api.openapi >docs/openapi.json
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import msgspec

from gesso import __version__
from gesso.api import gallery_schemas, reading, schemas, taking_in, words
from gesso.api.problems import MEDIA_TYPE
from gesso.request.json_schema import request_schema
from gesso.request.typed import types_of
from gesso.serving.jobs import JobStatus

if TYPE_CHECKING:
    from fastapi import FastAPI

ABOUT = """\
Submit a request for pictures as a job, watch it, fetch the pictures. Every error is a problem detail (RFC 9457) with a
code of docs/errors.md. Ids and addresses are opaque. What belongs to another key is not found.
"""
TAGS = {
    "Jobs": "A job is a request for pictures: accepted when it is on the disk, drawn once, the same whoever draws it.",
    "Batches": "Several jobs at once.",
    "Uploads": "Pictures that requests draw from.",
    "Pictures": "What was drawn: a library with stars, boards and searches.",
    "Boards": "Named collections of pictures.",
    "Words": "How prompts are read, and what may be completed in them.",
    "Models": "What there is to draw with.",
    "Operation": "For whoever runs the server.",
}
SHOWN = (
    *(schemas.JobBody, schemas.BatchBody, schemas.PlanBody, schemas.Problem, schemas.JobResource, schemas.JobList),
    *(
        schemas.BatchResource,
        schemas.BatchList,
        schemas.AssetResource,
        gallery_schemas.PictureMetadata,
        schemas.ModelList,
        schemas.AdapterList,
    ),
    *(schemas.SamplerList, schemas.ScheduleList, schemas.Plan, schemas.Health, schemas.Readiness),
    *(gallery_schemas.ChangesBody, gallery_schemas.ArchiveBody, gallery_schemas.BoardBody),
    *(gallery_schemas.PriorityBody, gallery_schemas.LibraryPage, gallery_schemas.LibraryDays),
    gallery_schemas.ChangedPictures,
    *(gallery_schemas.BoardList, gallery_schemas.PictureSettings, gallery_schemas.QueueResource),
    *(words.PromptBody, words.PromptReadingJson, words.CompletionList),
    *(reading.PreprocessorList, reading.HintBody, taking_in.TakenModel),
)
_ID = "01M8MH9MX9E20SA7BXW3B5T9Q4"
PROBLEM = {
    "type": "urn:gesso:error:invalid_field",
    "title": "A field of the request has an invalid value; `field` names it.",
    "status": 400,
    "detail": "width 257: expected a multiple of 16 for this model. Try 256 or 272",
    "code": "invalid_field",
    "field": "request.width",
    "data": {"value": 257, "multiple": 16, "nearest": 256},
}
JOB = {
    "id": _ID,
    "status": "succeeded",
    "model": "gesso-mini",
    "request": {"prompt": "a red car", "seed": 7, "num_steps": 8},
    "assets": {},
    "output": {"format": "png", "quality": 90},
    "front": {},
    "priority": 0,
    "batch": None,
    "metadata": {},
    "created_at": "2026-11-29T20:52:40.491Z",
    "started_at": "2026-11-29T20:52:40.538Z",
    "completed_at": "2026-11-29T20:52:41.388Z",
    "expires_at": "2026-12-06T20:52:41.388Z",
    "deadline": None,
    "queue_position": None,
    "progress": {"value": 1.0, "step": 8, "steps": 8, "picture": 1, "pictures": 1, "message": None},
    "attempts": 1,
    "outputs": [
        {
            "id": f"{_ID}-0",
            "index": 0,
            "type": "image",
            "content_type": "image/png",
            "size_bytes": 41451,
            "width": 256,
            "height": 256,
            "hash": "sha256:7b4940d4000da8781b3457c65798d27df40db811fe043c27bcca9f6a618178bd",
            "seed": 7,
            "notices": [],
            "url": f"/v1/images/{_ID}-0",
            "metadata_url": f"/v1/images/{_ID}-0/metadata",
        }
    ],
    "error": None,
    "metrics": {"queue_ms": 47, "execution_ms": 850},
    "urls": {
        "self": f"/v1/jobs/{_ID}",
        "events": f"/v1/jobs/{_ID}/events",
        "cancel": f"/v1/jobs/{_ID}/cancel",
        "retry": f"/v1/jobs/{_ID}/retry",
    },
}
PLAN = {
    "model": "gesso-mini",
    "family": "gesso-mini",
    "request": {"prompt": "a red car", "width": 256, "height": 256, "num_steps": 20, "sampler": "dpmpp_2m"},
    "work": 1.31072,
    "max_work": 20000.0,
    "memory": {
        "weights_bytes": 58700352,
        "activations_bytes": 4746650,
        "peak_bytes": 512237530,
        "basis": "headers",
    },
    "time": {"seconds": 1.7, "samples": 12, "basis": "history"},
    "queue": {"jobs": 0, "seconds": 0.0},
    "notes": [],
}
_REF = "#/components/schemas/{name}"
JOB_ENDED = {
    "operationId": "jobEnded",
    "tags": ["Jobs"],
    "summary": "A job is final",
    "description": "Sent to the `webhook` of a job, signed as Standard Webhooks has it. Answer 2xx; anything else is "
    "tried again for a day, and 410 ends it. It may come twice, with the same `webhook-id`.",
    "parameters": [
        {"name": name, "in": "header", "required": True, "description": words, "schema": {"type": "string"}}
        for name, words in {
            "webhook-id": "Of the delivery; the same each time that it is tried.",
            "webhook-timestamp": "When it was sent, in seconds since 1970. Refuse what is older than five minutes.",
            "webhook-signature": "v1, and the HMAC-SHA256 of id, timestamp and body, joined by dots, in Base64.",
        }.items()
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REF.format(name="JobEnd")}}},
    },
    "responses": {"2XX": {"description": "Received."}, "410": {"description": "Do not tell it again."}},
}


def document(app: "FastAPI") -> dict[str, Any]:
    """The whole document of an application, without the surfaces of other tools, which have documents of their own."""
    from fastapi.openapi.utils import get_openapi

    made = get_openapi(
        title="gesso",
        version=__version__,
        openapi_version="3.1.0",
        description=ABOUT,
        routes=[route for route in app.routes if set(getattr(route, "tags", ())) & TAGS.keys()],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    made["webhooks"] = {"jobEnded": {"post": deepcopy(JOB_ENDED)}}
    made["components"] = {
        "schemas": _schemas(),
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `gesso keys add`."},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
        },
    }
    for path in made["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            if "HTTPValidationError" in json.dumps(responses.get("422", {})):
                del responses["422"]  # FastAPI's own error, which is not sent
            for response in responses.values():
                problem = response.get("content", {}).get(MEDIA_TYPE)
                if problem is not None:
                    response["content"] = {MEDIA_TYPE: problem}
            for status in ("429", "503"):
                if status in responses:
                    seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds."}
                    responses[status]["headers"] = {"Retry-After": seconds}
    _whole(made)
    return made


def _whole(value: Any) -> None:
    """Bounds that are whole numbers as such: which type they have depends on which module declared them first."""
    for key, held in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in ("minimum", "maximum") and isinstance(held, float) and held.is_integer():
            value[key] = int(held)
        else:
            _whole(held)


def _schemas() -> dict[str, Any]:
    """The components, from the dataclasses; the request's own schema among them."""
    _, found = msgspec.json.schema_components(SHOWN, ref_template=_REF)
    made = dict(sorted(found.items()))
    for cls in (
        *(schemas.JobBody, schemas.BatchBody, schemas.PlanBody, schemas.OutputBody, schemas.WebhookBody),
        *(gallery_schemas.ChangesBody, gallery_schemas.ArchiveBody, gallery_schemas.BoardBody),
        *(gallery_schemas.PriorityBody, words.PromptBody, reading.HintBody),
    ):
        made[cls.__name__]["additionalProperties"] = False
        types_of(cls)
    made["Problem"]["examples"] = [PROBLEM]
    made["JobResource"]["examples"] = [JOB]
    made["Plan"]["examples"] = [PLAN]
    made["JobEnd"] = _job_end(made["JobResource"])
    request, parts = _request()
    made |= parts | {"Request": request}
    for name in ("JobBody", "PlanBody"):
        made[name]["properties"]["request"] = {"$ref": _REF.format(name="Request")}
        made[name]["properties"]["assets"] |= {
            "propertyNames": {"pattern": "^(image|mask|hint:(0|[1-9][0-9]?))$"},
            "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 48, "pattern": "^[0-9A-Za-z_-]+$"},
        }
    for name in ("JobBody", "BatchBody"):
        for one in made[name]["properties"]["batch"]["anyOf"]:
            one |= {"minLength": 1, "maxLength": 255} if one.get("type") == "string" else {}
    return made


def _job_end(job: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of what a webhook is told, from that of a job."""
    data = deepcopy(dict(job))
    del data["properties"]["request"]
    data["required"] = [name for name in data["required"] if name != "request"]
    shown = {key: value for key, value in JOB.items() if key != "request"}
    data |= {"title": "JobEndData", "examples": [shown]}
    types = [f"job.{status}" for status in JobStatus if status.is_final]
    return {
        "title": "JobEnd",
        "description": "The final state of a job, as a webhook is told it: the job without its request.",
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"enum": types},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": data,
        },
        "examples": [{"type": "job.succeeded", "timestamp": JOB["completed_at"], "data": shown}],
    }


def _request() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of a request, whose version may be left out here, and those of its parts."""
    whole = deepcopy(request_schema())
    whole.pop("$schema")
    parts = {f"Request{name}": part for name, part in whole.pop("$defs").items()}
    whole["required"] = [name for name in whole["required"] if name not in ("schema", "version")]
    text = json.dumps([whole, parts]).replace('"#/$defs/', '"#/components/schemas/Request')
    whole, parts = json.loads(text)
    return whole, parts
