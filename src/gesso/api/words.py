"""Words: how a model reads a prompt, and what may be completed while one is typed."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as made
from functools import lru_cache
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Response
from msgspec import Meta

from gesso.api.bodies import json_body
from gesso.api.cards import license_of, thumbnail_url, trigger_words
from gesso.api.checking import MAX_HEADER
from gesso.api.context import Call, Calling
from gesso.api.operations import Routes, operation
from gesso.api.problems import HttpError, JsonAnswer
from gesso.api.schemas import FrontBody, NoticeJson
from gesso.errors import GessoError, one_line
from gesso.frontends.front_end import WildcardFolder, read_styles
from gesso.library.entry import LibraryEntry
from gesso.request.migrations import SCHEMA, VERSION
from gesso.studio.home import styles_file
from gesso.world.translating import NAMES as LANGUAGES

router = Routes()
TAG = "Words"
# Of a request, what decides how its prompts are read; all else may be half-typed.
READ = ("prompt", "negative_prompt", "conventions", "preset", "num_steps", "loras", "seed")
MAX_WILDCARDS = 5000
MAX_DETAIL = 300  # characters
# (what is typed, where the cursor goes is at "|", in words)
SYNTAX = (
    ("(|:1.2)", "More weight", "(red:1.2) counts 1.2 times; below 1 counts less."),
    ("[|:0.5]", "Prompt editing", "[cat:dog:0.5] is a cat for the first half of the steps, a dog after."),
    ("[||]", "Alternating", "[cat|dog] changes with every step."),
    (" BREAK ", "New chunk", "What follows begins a new chunk of tokens."),
    (" AND ", "Composed prompts", "cat AND grass draws both prompts at once, each with its own weight."),
    ("<lora:|:1>", "LoRA", "<lora:name:0.8> adds a LoRA with its weight."),
)
DYNAMIC = (
    ("{||}", "One of several", "{red|green} takes one at random for each picture."),
    ("__|__", "Wildcard", "__colours__ takes a line of the list of that name."),
)

log = logging.getLogger(__name__)


# ---- what is sent and what comes back --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PromptBody:
    """Prompts to be read."""

    request: Annotated[dict[str, Any], Meta(description=f"As in a job; of it only {', '.join(READ)} count.")]
    model: Annotated[str, Meta(min_length=1, max_length=255)] = "gesso-mini"
    front: FrontBody = made(default_factory=FrontBody)


@dataclass(frozen=True, kw_only=True)
class PromptPiece:
    """A part of a prompt.  text: null is a BREAK"""

    text: str | None
    weight: float


@dataclass(frozen=True, kw_only=True)
class ClampedPiece:
    """A part whose weight was out of range."""

    text: str
    asked: float
    used: float


@dataclass(frozen=True, kw_only=True)
class PromptText:
    """One text of a prompt, as it is encoded."""

    steps: Annotated[str, Meta(description='That use it, counted from 1: "1-10", or "1, 3, 5".')]
    weight: Annotated[float, Meta(description="Of the prompt among those joined by AND.")]
    pieces: tuple[PromptPiece, ...]
    tokens: Annotated[tuple[int, ...], Meta(description="In each chunk.")]
    room: Annotated[int, Meta(description="Tokens that fit into a chunk.")]
    cut: Annotated[str, Meta(description="Text that did not fit.")]
    unknown: Annotated[tuple[str, ...], Meta(description="Words that the model does not know.")]
    clamped: tuple[ClampedPiece, ...]


@dataclass(frozen=True, kw_only=True)
class PromptField:
    """A prompt or a negative prompt."""

    field: Literal["prompt", "negative_prompt"]
    joined: Annotated[str, Meta(description='How several texts of one step are joined; "" for one.')]
    texts: tuple[PromptText, ...]
    notices: tuple[NoticeJson, ...]


@dataclass(frozen=True, kw_only=True)
class UnknownWord:
    """A word that the model does not know, and ignores."""

    word: str
    nearest: Annotated[str | None, Meta(description="What may have been meant.")]
    field: Literal["prompt", "negative_prompt"]


@dataclass(frozen=True, kw_only=True)
class PromptLanguage:
    """Another language than English, in which the prompt was read."""

    code: str
    name: str
    english: Annotated[str, Meta(description="What it was read as.")]


@dataclass(frozen=True, kw_only=True)
class PromptLora:
    """A LoRA that the prompt uses."""

    name: str
    weight: float
    trigger_words: str
    fit: str


@dataclass(frozen=True, kw_only=True)
class PromptEmbedding:
    """An embedding that the prompt uses."""

    name: str
    vectors: int


@dataclass(frozen=True, kw_only=True)
class PromptReadingJson:
    """How a model reads prompts. Nothing is drawn."""

    prompt: Annotated[str, Meta(description="Without flags and wildcards.")]
    negative_prompt: str
    syntax: str
    emphasis: str
    fields: tuple[PromptField, ...]
    unknown: tuple[UnknownWord, ...]
    language: PromptLanguage | None
    loras: tuple[PromptLora, ...]
    embeddings: tuple[PromptEmbedding, ...]
    notices: tuple[NoticeJson, ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Something that a prompt may have."""

    kind: Literal["lora", "embedding", "wildcard", "style", "syntax", "object"]
    insert: Annotated[str, Meta(description='What is typed; a "|" is where the cursor goes (syntax alone).')]
    label: str
    detail: str
    trigger_words: tuple[str, ...] = ()
    license: str | None = None
    thumbnail_url: str | None = None
    aliases: Annotated[tuple[str, ...], Meta(description="Other words for the same.")] = made(default=())


@dataclass(frozen=True, kw_only=True)
class CompletionList:
    """Everything that may be completed."""

    items: tuple[Completion, ...]


# ---- routes ----------------------------------------------------------------------------------------------------------


@operation(
    router,
    "POST",
    "/v1/prompts",
    id="readPrompt",
    rule="read",
    tag=TAG,
    summary="How a model reads a prompt",
    answer=PromptReadingJson,
    body=PromptBody,
    body_example={"model": "gesso-mini", "request": {"prompt": "a (red:1.3) cat"}},
    cost=0.25,
)
def read_prompt(call: Calling, body: Annotated[PromptBody, Depends(json_body(PromptBody))]) -> Response:
    """Tokens in each chunk, weights, words that the model does not know with what may have been meant, the language.

    The first question takes seconds, until a helper process is there; the next take some milliseconds.
    """
    context = call.context
    entry = context.checker.model(body.model)
    asked = {name: value for name, value in body.request.items() if name in READ}
    request = {"schema": SCHEMA, "version": VERSION} | asked | {"num_images": 1}
    wildcards = context.settings.wildcards
    try:
        read = context.helper.ask(
            "prompts",
            model=str(entry.path),
            request=request,
            front={"flags": body.front.flags, "styles": list(body.front.styles), "dynamic": body.front.dynamic},
            library=str(context.checker.library.root),
            wildcards=None if wildcards is None else str(wildcards),
        )
    except HttpError as error:
        if error.field is not None and error.field != "model":
            error.field = f"request.{error.field}"
        raise
    if read["language"] is not None:
        read["language"]["name"] = LANGUAGES[read["language"]["code"]]
    return JsonAnswer(read)


@operation(
    router,
    "GET",
    "/v1/completions",
    id="listCompletions",
    rule="read",
    tag=TAG,
    summary="What may be completed in a prompt",
    answer=CompletionList,
)
def list_completions(
    call: Calling,
    model: Annotated[str, Query(max_length=255, description="LoRA and words are those that fit it.")] = "gesso-mini",
) -> Response:
    """LoRA and embeddings of the library that fit the model, wildcards, styles, syntax, and what the model draws where
    that is a closed list."""
    entry = call.context.checker.model(model)
    return JsonAnswer({"items": [*_adapters(call, entry), *_objects(entry), *_lists(call), *_styles(), *_syntax(call)]})


def _adapters(call: Call, model: LibraryEntry) -> Iterator[dict[str, Any]]:
    for kind, entry in call.context.checker.adapters():
        if kind not in ("lora", "embedding") or (entry.family is not None and entry.family != model.family):
            continue
        yield {
            "kind": kind,
            "insert": f"<lora:{entry.name}:1>" if kind == "lora" else entry.name,
            "label": entry.name,
            "detail": one_line(entry.what)[:MAX_DETAIL],
            "trigger_words": trigger_words(entry),
            "license": license_of(entry),
            "thumbnail_url": thumbnail_url(kind, entry),
            "aliases": [],
        }


def _plain(kind: str, insert: str, label: str, detail: str, aliases: list[str] | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "insert": insert,
        "label": label,
        "detail": detail[:MAX_DETAIL],
        "trigger_words": [],
        "license": None,
        "thumbnail_url": None,
        "aliases": aliases or [],
    }


def _objects(entry: LibraryEntry) -> Iterator[dict[str, Any]]:
    if entry.family != "gesso-mini":
        return
    for name, others in _objects_of(str(entry.path), entry.path.stat().st_mtime_ns).items():
        yield _plain("object", name, name, ", ".join(others), list(others))


@lru_cache(maxsize=8)
def _objects_of(path: str, mtime_ns: int) -> Mapping[str, tuple[str, ...]]:
    """What a model draws whose file has a list of it, with other words for each."""
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if length > MAX_HEADER:
                return {}
            config = json.loads(json.loads(handle.read(length))["__metadata__"]["gesso.config"])
        return {str(name): tuple(map(str, others)) for name, others in dict(config.get("objects", {})).items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lists(call: Call) -> Iterator[dict[str, Any]]:
    folder = call.context.settings.wildcards
    if folder is None:
        return
    try:
        names = sorted(WildcardFolder(folder))[:MAX_WILDCARDS]
    except GessoError as error:
        log.warning("wildcards: %s", error.code)
        return
    for name in names:
        yield _plain("wildcard", f"__{name}__", name, "A line of this list, for each picture another.")


def _styles() -> Iterator[dict[str, Any]]:
    path = styles_file()
    if not path.is_file():
        return
    try:
        styles = read_styles(path)
    except GessoError as error:
        log.warning("styles: %s", error.code)
        return
    for style in styles.values():
        yield _plain("style", style.name, style.name, one_line(style.prompt or style.negative_prompt))


def _syntax(call: Call) -> Iterator[dict[str, Any]]:
    for insert, label, detail in (*SYNTAX, *DYNAMIC):
        yield _plain("syntax", insert, label, detail)
