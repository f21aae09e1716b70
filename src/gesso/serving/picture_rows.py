"""Rows of the library of pictures: what is written when a picture is finished, and what searches look through."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, exists, insert, update

from gesso.serving.jobs import Output
from gesso.serving.tables import board_pictures, owners, pictures

MAX_TEXT = 4000  # characters of a prompt that a list shows
# Settings that searches know, by the paths of their fields in a request.
SETTINGS = {
    "seed": "",
    "steps": "num_steps",
    "guidance": "guidance_scale",
    "sampler": "sampler",
    "schedule": "schedule",
    "size": "",
    "model": "",
    "lora": "",
    "control": "",
    "strength": "source.strength",
}

_TAG = re.compile(r"<(?:lora|lyco):([^:<>]+)", re.IGNORECASE)  # a LoRA that is named in a prompt


_CHANGED = update(owners).where(owners.c.owner == bindparam("this")).values(gallery=owners.c.gallery + 1)


def mark_changed(connection: Connection, owner: str) -> None:
    """Count a change of an owner's pictures or boards, for those who watch."""
    if connection.execute(_CHANGED, {"this": owner}).rowcount == 0:
        connection.execute(insert(owners).values(owner=owner, served=0, gallery=1))


def add_picture(connection: Connection, output: Output, job: Row[Any], at: float) -> None:
    """Give a finished picture its place; its row in `outputs` is there already."""
    values = row_of(
        output=output.id,
        job=job.id,
        owner=job.owner,
        batch=job.batch,
        model=job.model,
        work=job.work,
        recipe=output.recipe,
        seed=output.seed,
        size=(output.width, output.height),
        at=at,
    )
    connection.execute(insert(pictures).values(values))
    mark_changed(connection, job.owner)


def row_of(
    *,
    output: str,
    job: str,
    owner: str,
    batch: str | None,
    model: str,
    work: Mapping[str, Any],
    recipe: Mapping[str, Any],
    seed: int | str,
    size: tuple[int, int],
    at: float,
) -> dict[str, Any]:
    """The row of a finished picture. What a recipe lacks, as that of an enlarged picture does, the job may say."""
    asked = _table(work.get("request"))
    drawn = {**asked, **{name: value for name, value in _table(recipe.get("request")).items() if value is not None}}
    prompt, negative = (str(drawn.get(name) or "") for name in ("prompt", "negative_prompt"))
    return {
        "output": output,
        "job": job,
        "owner": owner,
        "batch": batch,
        "model": model,
        "prompt": prompt[:MAX_TEXT],
        "negative_prompt": negative[:MAX_TEXT],
        "words": words_of(drawn, str(asked.get("prompt") or ""), model=model, seed=seed, size=size),
        "created_at": at,
        "starred": False,
        "deleted_at": None,
    }


def words_of(request: Mapping[str, Any], written: str, *, model: str, seed: int | str, size: tuple[int, int]) -> str:
    """What searches look through: prompts and settings, in small letters, a space around each word."""
    texts = [str(request.get("prompt") or ""), str(request.get("negative_prompt") or "")]
    if written not in texts:
        texts.append(written)  # as it was typed, with its wildcards
    found = {"seed": seed, "size": f"{size[0]}x{size[1]}", "model": model}
    for name, path in SETTINGS.items():
        value: Any = request
        for part in path.split(".") if path else ():
            value = _table(value).get(part)
        if path and isinstance(value, str | int | float) and not isinstance(value, bool):
            found[name] = f"{value:g}" if isinstance(value, float) else value
    named = [
        f"{kind}:{use.get(key)}"
        for kind, uses, key in (("lora", "loras", "name"), ("control", "controls", "model"))
        for use in (request.get(uses) or ())
        if isinstance(use, Mapping)
    ]
    tags = {f"lora:{name.strip()}" for text in (*texts, written) for name in _TAG.findall(text)}
    texts += [f"{name}:{value}" for name, value in found.items()] + sorted({*named, *tags})
    return f" {' '.join(' '.join(texts).casefold().split())} "


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def is_kept(job_id: Any) -> Any:
    """The condition that a job has a picture with a star, or on a board."""
    on_a_board = exists().where(board_pictures.c.picture == pictures.c.number)
    return exists().where(
        and_(pictures.c.job == job_id, pictures.c.deleted_at.is_(None), pictures.c.starred | on_a_board)
    )
