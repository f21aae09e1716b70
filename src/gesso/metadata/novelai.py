"""Settings from the text chunks of NovelAI: "Description" is the prompt, "Comment" a JSON object with the rest."""

from collections.abc import Mapping

from gesso.metadata.picture_metadata import Draft, PictureMetadata, real, whole
from gesso.request.checks import parse_json_object
from gesso.request.request import called_by


def from_novelai(texts: Mapping[str, str]) -> PictureMetadata:
    """The settings of a picture. Raises RequestError (a GessoError) where "Comment" is no JSON object."""
    comment = parse_json_object(texts.get("Comment", "{}"), "Comment")
    draft = Draft(preset="a1111", ensd=31337, clip_skip=2, noise="cpu")  # how its first models are drawn elsewhere
    prompt = comment.get("prompt")
    draft.set("prompt", prompt if isinstance(prompt, str) else texts.get("Description", ""), "prompt")
    draft.set("negative_prompt", comment.get("uc") or "", "uc")
    for key, row in called_by("novelai"):
        if row.is_number:
            draft.set(row.path, whole(comment.get(key)) if row.kind == "whole" else real(comment.get(key)), key)
    sampler, schedule = comment.get("sampler"), comment.get("noise_schedule")
    draft.sampler(
        sampler.removeprefix("k_") if isinstance(sampler, str) else None,
        schedule if isinstance(schedule, str) and schedule != "native" else None,
    )
    if any(sign in draft.values.get("prompt", "") for sign in "{}"):
        text = "gesso reads NovelAI's {braces} as text; for their weight of 1.05, write (text:1.05)"
        draft.note(text, code="syntax_differs", field="prompt")
    text = f"drawn by {texts.get('Source', 'a model of NovelAI')[:80]}, which is not public"
    draft.note(text, code="model_unavailable", field="model")
    pairs = {str(key)[:64]: str(value)[:200] for key, value in list(comment.items())[:100]}
    return draft.build("NovelAI", pairs=pairs)
