"""Many pictures in a server's database, without drawing them: copies of one real job, as far as rows go."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from gesso.serving.database import Database
from gesso.serving.picture_rows import row_of
from gesso.serving.rows import Ids
from gesso.serving.tables import jobs, outputs, pictures

WORDS = ("red car", "green house", "blue bird", "tall tree", "small dog", "yellow flower", "old clock", "round apple")
BLOCK = 5000


def fill(database: Path, count: int, every: float = 10.0) -> None:
    """So many finished jobs more, one picture each, like the newest one that is there, with prompts that differ.

    every  seconds from one to the next; the newest was just now

    They share the bytes of its picture. The server may be running; it sees them as it sees those of its workers.
    """
    store = Database(database)
    try:
        with store.reading() as connection:
            job: dict[str, Any] = dict(
                connection.execute(select(jobs).order_by(jobs.c.seq.desc()).limit(1)).one()._mapping
            )
            made = select(outputs).where(outputs.c.job == job["id"])
            output: dict[str, Any] = dict(connection.execute(made).one()._mapping)
        job.pop("seq")
        rows = list(_rows(job, output, count, every))
        with store.writing() as connection:
            for start in range(0, count, BLOCK):
                block = rows[start : start + BLOCK]
                connection.execute(insert(jobs), [one[0] for one in block])
                connection.execute(insert(outputs), [one[1] for one in block])
                connection.execute(insert(pictures), [one[2] for one in block])
    finally:
        store.close()


def _rows(
    job: dict[str, Any], output: dict[str, Any], count: int, every: float
) -> Iterator[tuple[dict[str, Any], ...]]:
    ids, now = Ids(), time.time()
    for number in range(count):
        id, at = ids.new(), now - every * (count - number)
        prompt = f"a {WORDS[number % len(WORDS)]} number {number}"
        request = {**job["work"]["request"], "prompt": prompt, "seed": number}
        work = {**job["work"], "request": request}
        recipe = {**output["recipe"], "request": {**output["recipe"]["request"], "prompt": prompt, "seed": number}}
        times = {"created_at": at, "started_at": at, "completed_at": at}
        new_job = {**job, "id": id, "work": work, "idempotency_key": None, **times}
        new_output = {**output, "id": f"{id}-0", "job": id, "seed": str(number), "recipe": recipe}
        picture = row_of(
            output=new_output["id"],
            job=id,
            owner=job["owner"],
            batch=None,
            model=job["model"],
            work=work,
            recipe=recipe,
            seed=number,
            size=(output["width"], output["height"]),
            at=at,
        )
        yield new_job, new_output, picture
