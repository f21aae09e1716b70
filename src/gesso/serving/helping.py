"""The helper: a process beside the server for small work that needs torch, which the server itself does without.

    python -m gesso.serving.helping <asked >answered

It answers each line of JSON on its standard input with one on its standard output, until that ends, or until nothing
was asked for `IDLE_SECONDS`. A task is an object with "task" and what the function of that name below takes; the answer
has "done", or "error" with "code", "message", "field", "data" and whether the message may be shown to clients.
"""

import json
import logging
import os
import select
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesso.checkpoints.errors import ModelFileError
from gesso.errors import GessoError
from gesso.notices import Notice
from gesso.request.checks import RequestError
from gesso.text.prompt import PromptError

if TYPE_CHECKING:
    from gesso.studio.prompts import PromptReader, PromptReading

IDLE_SECONDS = 600.0
MAX_READERS = 3  # models whose words are held
# Of errors about a hint, which name a preprocessor and nothing else.
HINT_CODES = ("unsuitable_hint", "invalid_value", "unknown_name", "missing_extra")
MAX_UNKNOWN = 50  # words that are looked up

log = logging.getLogger(__name__)

_readers: "OrderedDict[str, PromptReader]" = OrderedDict()


def prompts(
    *, model: str, request: Mapping[str, Any], front: Mapping[str, Any], library: str, wildcards: str | None
) -> dict[str, Any]:
    """How a model reads the prompts of a request. Raises GessoError.

    model    path of its file
    request  JSON, of the first picture
    front    as `Work.front`
    """
    from gesso.library import Library
    from gesso.request.request import TextToImageRequest
    from gesso.studio.front_ends import MIDJOURNEY, open_front_end
    from gesso.studio.prompts import PromptReader
    from gesso.studio.studio import Studio

    mark = f"{model} {os.stat(model).st_mtime_ns}"
    reader = _readers.pop(mark, None)
    if reader is None:
        reader = PromptReader(Studio(library=Library(library), offline=True), model)
        while len(_readers) >= MAX_READERS:
            _readers.popitem(last=False)
    _readers[mark] = reader
    opened = open_front_end(
        MIDJOURNEY if front.get("flags") else None,
        style=tuple(front.get("styles", ())) or None,
        wildcards=Path(wildcards) if front.get("dynamic") and wildcards else None,
        dynamic=bool(front.get("dynamic")),
    )
    first = next(iter(reader.read(TextToImageRequest.from_dict(dict(request)), front=opened)))
    return _read(first, reader)


def _read(first: "PromptReading", reader: "PromptReader") -> dict[str, Any]:
    from gesso.pipelines.vocabulary import vocabulary_notices
    from gesso.text.spelling import meant_word

    reading, tokenizer, objects = first.reading, reader.model.tokenizer, reader.model.family.objects
    nouns = {noun for name, others in objects.items() for phrase in (name, *others) for noun in phrase.split()}
    language, unknown, fields = None, list[dict[str, Any]](), list[dict[str, Any]]()
    for field in reading.fields:
        notices = list(field.notices)
        for notice in field.notices:
            if notice.code == "language_read" and language is None:
                language = {"code": notice.data["language"], "english": notice.data["english"]}
        words = dict.fromkeys(word for text in field.texts for word in text.unknown)
        for word in list(words)[:MAX_UNKNOWN]:
            unknown.append({"word": word, "nearest": meant_word(word, tokenizer.words, nouns), "field": field.field})
        if field.field == "prompt" and field.texts:
            text = language["english"] if language else "".join(part or " " for part, _ in field.texts[0].pieces)
            told = vocabulary_notices(tokenizer, text, field="prompt", objects=objects, model=reader.model.name)
            notices += [notice for notice in told if notice.code == "no_object"]
        fields.append(
            {
                "field": field.field,
                "joined": field.joined,
                "texts": [
                    {
                        "steps": text.steps,
                        "weight": text.weight,
                        "pieces": [{"text": piece, "weight": weight} for piece, weight in text.pieces],
                        "tokens": list(text.tokens),
                        "room": text.room,
                        "cut": text.cut,
                        "unknown": list(text.unknown),
                        "clamped": [
                            {"text": piece, "asked": asked, "used": used} for piece, asked, used in text.clamped
                        ],
                    }
                    for text in field.texts
                ],
                "notices": [_notice(notice) for notice in notices],
            }
        )
    return {
        "prompt": first.request.prompt,
        "negative_prompt": first.request.negative_prompt,
        "syntax": reading.syntax,
        "emphasis": reading.emphasis,
        "fields": fields,
        "unknown": unknown,
        "language": language,
        "loras": [
            {"name": lora["name"], "weight": lora["weight"], "trigger_words": lora["trigger"], "fit": lora["fit"]}
            for lora in reading.loras
        ],
        "embeddings": [{"name": word["name"], "vectors": word["vectors"]} for word in reading.words],
        "notices": [_notice(notice) for notice in (*first.notices, *reading.notices)],
    }


def _notice(notice: Notice) -> dict[str, Any]:
    data = {key: value for key, value in notice.data.items() if key != "path"}
    return {"code": notice.code, "message": str(notice), "field": notice.field, "data": data}


def hint(
    *, name: str, image: str, mask: str | None, size: Sequence[int], parameters: Mapping[str, float], made: str
) -> None:
    """The hint that a preprocessor makes of a picture, as a job would: a PNG at the path `made`. Raises GessoError."""
    from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
    from gesso.pictures.reading import read_image, read_map, read_mask

    name = canonical(name)
    read = read_map if PREPROCESSORS[name].takes_map else read_image
    hole = None if mask is None else read_mask(Path(mask))
    width, height = size
    preprocess(name, read(Path(image)), (width, height), parameters, hole).save(made, "PNG")


def take_in(*, library: str, source: str, name: str) -> dict[str, Any]:
    """Import the file of a model into a library, which moves nothing that is there. Raises GessoError."""
    from gesso.library import Library
    from gesso.library.importing import import_model

    result = import_model(Library(library), Path(source), name=name)
    return {"name": result.entry.name, "kind": result.entry.kind, "is_new": result.new}


TASKS: Mapping[str, Callable[..., Any]] = {"prompts": prompts, "hint": hint, "take_in": take_in}


def answer(line: str) -> dict[str, Any]:
    """The answer to one line."""
    asked = json.loads(line)
    task = asked.pop("task")
    try:
        return {"done": TASKS[task](**asked)}
    except GessoError as error:
        # Of files on this machine a client learns nothing but what it named itself.
        is_shown = isinstance(error, RequestError | PromptError) or (task == "hint" and error.code in HINT_CODES)
        message = error.one_line
        if isinstance(error, ModelFileError):
            is_shown, message = True, error.detail
        told = {"code": error.code, "message": message, "field": error.field, "is_shown": is_shown}
        return {"error": told | {"is_prompt": isinstance(error, PromptError)}}
    except Exception:
        log.exception("the helper met an error, and goes on")
        return {"error": {"code": "internal", "message": "", "field": None, "is_shown": False, "is_prompt": False}}


def main() -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        out.write(json.dumps(answer(line)) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
