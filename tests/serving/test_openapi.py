"""openapi.json: fresh, valid, complete, and true: what it allows is answered as it says, and what it does not, too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gesso.api.openapi import TAGS, document
from gesso.api.problems import STATUSES
from gesso.api.webhooks import content_of
from gesso.server.app import bare_app
from gesso.server.reference import text
from serving.served import CAR, PNG, client, context, drawn

ROOT = Path(__file__).parents[2]
DOCUMENT = document(bare_app())
OPERATIONS = [
    pytest.param(path, method, operation, id=operation["operationId"])
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]
WITHOUT_BODY = ("/cancel", "/retry", "/pause", "/resume", "/asset")
FILES = {"multipart/form-data", "application/octet-stream"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


def test_the_file_is_fresh() -> None:
    saved = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert saved == text(), "make it anew: python -m gesso.server.reference >docs/openapi.json"


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1") and DOCUMENT["info"]["title"] == "gesso"
    ids = [one.values[2]["operationId"] for one in OPERATIONS]
    assert len(ids) == len(set(ids)) >= 24
    refs = {ref.rpartition("/")[2] for ref in _refs(DOCUMENT)}
    assert refs <= DOCUMENT["components"]["schemas"].keys(), "every reference leads somewhere"
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema), name


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from _refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from _refs(one)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_route_says_what_it_takes_and_answers(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"] and operation["description"] and operation["tags"][0] in TAGS
    assert ("security" in operation) == ("x-gesso-scope" in operation)
    body = operation.get("requestBody", {"content": {}})["content"]
    if method == "post" and not path.endswith(WITHOUT_BODY):
        assert body.keys() & FILES or body["application/json"]["example"]
    errors = [answer for status, answer in operation["responses"].items() if int(status) >= 400]
    assert errors and all(
        "application/problem+json" in answer["content"] for answer in errors if "checks" not in str(answer)
    )
    assert {"400", "429", "500", "503"} <= operation["responses"].keys()
    assert "401" in operation["responses"] or "security" not in operation


def test_examples_are_what_the_schemas_allow(tmp_path: Path) -> None:
    registry = {"components": DOCUMENT["components"]}
    shown = {name for name, schema in DOCUMENT["components"]["schemas"].items() if "examples" in schema}
    assert {"Problem", "JobResource", "Plan"} <= shown
    for name in ("Problem", "JobResource", "Plan"):
        schema = DOCUMENT["components"]["schemas"][name]
        assert not schema["properties"].keys() - schema["examples"][0].keys(), "an example shows every field"
        jsonschema.Draft202012Validator(schema | registry).validate(schema["examples"][0])
    for one in OPERATIONS:
        content = one.values[2].get("requestBody", {}).get("content", {}).get("application/json")
        if content is not None:
            schema = content["schema"] | registry
            jsonschema.Draft202012Validator(schema).validate(content["example"])
            path, method = one.values[:2]
            with context(tmp_path) as made, client(made) as asking:
                path, example = _real(path, content["example"], made, asking)
                answer = asking.request(method.upper(), path, json=example)
                assert answer.status_code in (200, 201, 202), answer.text


def test_what_a_webhook_is_told_is_what_the_document_says(tmp_path: Path) -> None:
    (hook,) = DOCUMENT["webhooks"].values()
    name = hook["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = DOCUMENT["components"]["schemas"][name]
    validator = jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]})
    validator.validate(schema["examples"][0])
    with context(tmp_path) as made, client(made) as asking:
        job, _ = drawn(made, asking)
        told = json.loads(json.dumps(content_of(job)))
    validator.validate(told)
    assert told["type"] == "job.succeeded" and told["data"].keys() == schema["properties"]["data"]["properties"].keys()


def _real(path: str, example: dict[str, Any], made: Any, asking: Any) -> tuple[str, dict[str, Any]]:
    """A path and an example, with ids of what is there."""
    if "images" in example:
        return path, example | {"images": [drawn(made, asking)[1].id]}
    if "image" in example:
        return path, example | {"image": asking.post("/v1/assets", files={"file": ("x.png", PNG)}).json()["id"]}
    if "{id}" in path:
        is_board = path.startswith("/v1/boards")
        found = asking.post("/v1/boards", json={"name": "x"}) if is_board else asking.post("/v1/jobs", json=CAR)
        return path.replace("{id}", found.json()["id"]), example
    return path, example


def test_statuses_of_codes_are_documented() -> None:
    documented = {int(status) for one in OPERATIONS for status in one.values[2]["responses"]}
    assert set(STATUSES.values()) <= documented


def asked(made: Any, examples: int, operations: set[str] | None = None) -> tuple[int, list[str]]:
    """How many requests were made of what schemathesis thinks of, and what was wrong with the answers."""
    from gesso.server.app import create_app

    schema = schemathesis.openapi.from_dict(DOCUMENT)
    count, wrong = 0, list[str]()
    app = create_app(made)
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.definition.raw["operationId"] in (operations or ()):
            continue

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @schemathesis_given(operation)
        def ask(case: Any) -> None:
            nonlocal count
            count += 1
            case.headers = {**(case.headers or {}), "Host": "127.0.0.1:7860"}
            answer = case.call(app=app, base_url="http://127.0.0.1:7860")
            try:
                case.validate_response(answer, checks=CHECKS)
            except Exception as error:
                wrong.append(f"{case.method} {case.formatted_path}: {str(error)[:600]}")

        ask()
    return count, wrong


def schemathesis_given(operation: Any) -> Any:
    from hypothesis import given
    from schemathesis.generation import GenerationMode

    positive = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    try:
        negative = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    except Exception:
        negative = positive
    return given(case=positive | negative)


@pytest.mark.parametrize("examples", [1, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_answers_are_those_that_are_documented(tmp_path: Path, examples: int) -> None:
    """0 answers of 5xx, 0 that the document does not allow."""
    with context(tmp_path, rate=10**6, max_queue=10**6, max_queue_per_key=10**6) as made, client(made) as asking:
        drawn(made, asking)
        asking.post("/v1/assets", files={"file": ("x.png", PNG)})
        asking.post("/v1/batches", json={"jobs": [CAR]})
        count, wrong = asked(made, examples, {"streamJobEvents", "streamEvents"})
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong[:5])
    assert count >= 20 * examples


def test_an_application_shows_its_description(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        assert asking.get("/openapi.json").json() == json.loads(text())
