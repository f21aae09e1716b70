"""Many pictures in a server's database, without drawing them: copies of one real job, as far as rows go."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, delete, insert, select

from gesso.serving.database import Database
from gesso.serving.picture_rows import row_of
from gesso.serving.rows import Ids
from gesso.serving.tables import jobs, outputs, pictures

WORDS = ("red car", "green house", "blue bird", "tall tree", "small dog", "yellow flower", "old clock", "round apple")
PROMPT, SEED = "@prompt@", 424242424242424242  # of the job that is copied, to be replaced in the text of its rows
TIMES = ("created_at", "started_at", "completed_at")
COUNTED = ("seq", "number")  # columns that count by themselves


def fill(database: Path, count: int, every: float) -> None:
    """So many finished jobs more, one picture each, like the newest one that is there, with prompts that differ.

    every  seconds from one to the next; the newest was just now

    They share the bytes of its picture. The server may be running; it sees them as it sees those of its workers.
    """
    store = Database(database)
    try:
        with store.writing() as connection:
            id, rows = _pattern(connection)
            ids, now = Ids(), time.time()
            news = [
                (
                    ids.new(),
                    f"a {WORDS[number % len(WORDS)]} number {number}",
                    str(number),
                    now - every * (count - number),
                )
                for number in range(count)
            ]
            for table, row in rows:
                names = [name for name in row if name not in COUNTED]
                places = ", ".join("?" * len(names))
                columns = ", ".join(f'"{name}"' for name in names)
                text = f"INSERT INTO {table.name} ({columns}) VALUES ({places})"
                connection.exec_driver_sql(text, list(_copies([(name, row[name]) for name in names], id, news)))
    finally:
        store.close()


def _pattern(connection: Connection) -> tuple[str, list[tuple[Table, dict[str, Any]]]]:
    """A job as the database has it, whose prompt and seed stand nowhere else. -> its id, its row in each table"""
    job: dict[str, Any] = dict(connection.execute(select(jobs).order_by(jobs.c.seq.desc()).limit(1)).one()._mapping)
    made = select(outputs).where(outputs.c.job == job["id"])
    output: dict[str, Any] = dict(connection.execute(made).one()._mapping)
    id = Ids().new()
    asked = {"prompt": PROMPT, "seed": SEED}
    work = {**job["work"], "request": {**job["work"]["request"], **asked}}
    recipe = {**output["recipe"], "request": {**output["recipe"]["request"], **asked}}
    new_job = {**job, "id": id, "work": work, "idempotency_key": None}
    new_job.pop("seq")
    new_output = {**output, "id": f"{id}-0", "job": id, "seed": str(SEED), "recipe": recipe}
    picture = row_of(
        output=new_output["id"],
        job=id,
        owner=job["owner"],
        batch=None,
        model=job["model"],
        work=work,
        recipe=recipe,
        seed=SEED,
        size=(output["width"], output["height"]),
        at=0.0,
    )
    rows = []
    tables = ((jobs, new_job, jobs.c.id), (outputs, new_output, outputs.c.job), (pictures, picture, pictures.c.job))
    for table, values, key in tables:
        connection.execute(insert(table).values(values))
        found = connection.exec_driver_sql(f"SELECT * FROM {table.name} WHERE {key.name} = ?", (id,))
        rows.append((table, dict(found.one()._mapping)))
    for table, _, key in reversed(tables):
        connection.execute(delete(table).where(key == id))
    return id, rows


def _copies(row: list[tuple[str, Any]], id: str, news: list[tuple[str, str, str, float]]) -> Iterator[tuple[Any, ...]]:
    """The row for each of the new jobs: id, prompt, seed and time of each."""
    values = [value for _, value in row]
    marks = (id, PROMPT, str(SEED))
    texts = [at for at, value in enumerate(values) if isinstance(value, str) and any(mark in value for mark in marks)]
    times = [at for at, (name, _) in enumerate(row) if name in TIMES]
    for new in news:
        copy = values.copy()
        for at in texts:
            text = values[at]
            for mark, own in zip(marks, new[:3], strict=True):
                text = text.replace(mark, own)
            copy[at] = text
        for at in times:
            copy[at] = new[3]
        yield tuple(copy)
