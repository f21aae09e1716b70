"""Databases of every older gesso are brought up to date, whole or not at all, with all that is in them."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, insert, text

import gesso.serving
from gesso.serving import database as database_module
from gesso.serving.database import Database
from gesso.serving.jobs import JobStatus
from gesso.serving.store import JobStore
from gesso.serving.tables import REVISION
from serving.databases import PostgresServer, postgres_server

FOLDER = Path(gesso.serving.__file__).parent / "migrations"
SCRIPTS = ScriptDirectory(str(FOLDER))
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]  # the oldest first
WORK = {"kind": "generate", "model": "gesso-mini", "request": {"prompt": "a"}, "assets": {}, "output": {}, "front": {}}


def rows() -> dict[str, list[dict[str, Any]]]:
    """Rows of the first revision: what every gesso has had. JSON is text."""
    job = {
        "owner": "ann",
        "priority": 0,
        "model": "gesso-mini",
        "cost": 1.0,
        "work": json.dumps(WORK),
        "work_hash": "0" * 64,
        "metadata": json.dumps({"mine": 1}),
        "created_at": 1000.0,
        "attempts": 0,
        "crashes": 0,
        "fence": 0,
        "last_event": 1,
        "progress": "{}",
        "webhook_tries": 0,
    }
    return {
        "owners": [{"owner": "ann", "served": 3}],
        "jobs": [
            job | {"id": "waits", "status": "queued", "idempotency_key": "k"},
            job | {"id": "done", "status": "succeeded", "attempts": 1, "started_at": 1001.0, "completed_at": 1002.0},
            job | {"id": "failed", "status": "failed", "error": json.dumps({"code": "not_finite", "message": "m"})},
        ],
        "events": [{"job": id, "number": 1, "type": "status", "at": 1000.0, "data": "{}"} for id in ("waits", "done")],
        "outputs": [
            {
                "id": "done-0",
                "job": "done",
                "index": 0,
                "content_type": "image/png",
                "nbytes": 9,
                "width": 8,
                "height": 8,
                "digest": "a" * 64,
                "seed": "7",
                "recipe": "{}",
                "notices": "[]",
            }
        ],
        "uploads": [
            {
                "id": "up",
                "owner": "ann",
                "name": "u",
                "content_type": "image/png",
                "nbytes": 9,
                "width": 8,
                "height": 8,
                "digest": "b" * 64,
                "created_at": 1000.0,
            }
        ],
        "job_uploads": [{"job": "waits", "upload": "up"}],
        "workers": [{"id": "w", "device": "cpu", "pid": 1, "started_at": 1.0, "seen_at": 2.0, "models": "[]"}],
    }


def engine_of(url: str) -> Engine:
    """A plain one, without what `Database` does."""
    if "://" not in url:
        url = f"sqlite:///{url}"
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    if made.dialect.name == "sqlite":

        @event.listens_for(made, "connect")
        def connect(connection: Any, record: object) -> None:
            connection.isolation_level = None

        @event.listens_for(made, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return made


def make_old(url: str, revision: str) -> None:
    """A database as a gesso of this revision left it."""
    engine = engine_of(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(FOLDER))
        config.attributes |= {"connection": connection, "version_table": "gesso_queue"}
        command.upgrade(config, revision)
        tables = MetaData()
        tables.reflect(connection)
        for name, values in rows().items():
            for row in values:
                connection.execute(insert(tables.tables[name]).values(row))
    engine.dispose()


def check(url: str) -> None:
    """The database is of today, and has everything."""
    store = JobStore(url)
    with store.database.reading() as connection:
        assert connection.execute(text("SELECT version_num FROM gesso_queue")).scalar_one() == REVISION
        context = MigrationContext.configure(connection, opts={"version_table": "gesso_queue", "compare_type": True})
        from alembic.autogenerate import compare_metadata

        from gesso.serving.tables import metadata

        assert compare_metadata(context, metadata) == []
    done, failed, waits = store.get("done"), store.get("failed"), store.get("waits")
    assert (done.status, done.outputs[0].digest, done.outputs[0].seed) == (JobStatus.SUCCEEDED, "a" * 64, 7)
    assert failed.error == {"code": "not_finite", "message": "m"} and waits.metadata == {"mine": 1}
    assert store.get_upload("up").digest == "b" * 64 and len(store.events_after("waits")) == 1
    lease = store.claim("new worker", lease_seconds=60)
    assert lease is not None and lease.job.id == "waits" and store.finish(lease)
    assert store.workers() == [] and store.counts() == {JobStatus.SUCCEEDED: 2, JobStatus.FAILED: 1}
    store.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "queue.sqlite3")
    server: PostgresServer = request.getfixturevalue("postgres")
    engine = engine_of(server.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server.url


def test_revisions_are_one_line_that_begins_with_the_first() -> None:
    assert REVISIONS[0] == "0001" and REVISIONS[-1] == REVISION == max(REVISIONS) and len(SCRIPTS.get_heads()) == 1
    assert sorted(REVISIONS) == REVISIONS, "a newer one is told by its name"


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.sampled(4)
def test_a_database_of_every_older_gesso_is_brought_up_to_date(url: str, revision: str) -> None:
    make_old(url, revision)
    check(url)


@pytest.mark.parametrize("revision", REVISIONS[:-1])
@pytest.mark.sampled(4)
def test_an_upgrade_that_is_cut_off_anywhere_leaves_the_old_database(
    url: str, revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails before its n-th statement, for every n: whoever comes next finds what was there, and does it all."""

    class CutError(Exception):
        pass

    make_old(url, revision)
    made: Any = database_module._engine
    left, cut = [0], [False]

    def failing(parsed: Any) -> Engine:
        engine: Engine = made(parsed)

        @event.listens_for(engine, "before_cursor_execute")
        def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if statement.lstrip().upper().startswith(("CREATE", "ALTER", "DROP", "UPDATE", "INSERT", "DELETE")):
                left[0] -= 1
                if left[0] == 0:
                    cut[0] = True
                    raise CutError

        return engine

    number = 0
    with monkeypatch.context() as patched:
        patched.setattr(database_module, "_engine", failing)
        while True:
            number += 1
            left[0], cut[0] = number, False
            try:
                Database(url).close()
            except CutError:
                engine = engine_of(url)
                with engine.connect() as connection:
                    held = connection.execute(text("SELECT version_num FROM gesso_queue")).scalar_one()
                    assert held == revision and connection.execute(text("SELECT count(*) FROM jobs")).scalar_one() == 3
                engine.dispose()
            if not cut[0]:
                break
    assert number > 2
    check(url)


def test_a_database_of_long_ago_is_read_from_a_file(tmp_path: Path) -> None:
    """A server of today starts on the file that the first gesso left behind, whose journal is not a WAL."""
    path = tmp_path / "queue.sqlite3"
    make_old(str(path), REVISIONS[0])
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    check(str(path))
