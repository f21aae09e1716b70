"""The tables of the queue, for SQLite and PostgreSQL. `migrations` makes them; a test compares the two.

Values of JSON are text: both databases store it, and neither reorders or refuses anything in it. Times are seconds
since the epoch, but for `lease_until`, see `Database.lease_time`.
"""

import json
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    literal_column,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

REVISION = "0004"  # of the newest migration


class Json(TypeDecorator[Any]):
    """JSON in a column of text: ASCII, no NaN; None is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else msgspec.json.decode(value)


def to_json(value: Any) -> str:
    """The same value always gives the same text."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True)


# SQLite numbers rows by itself where the key is an INTEGER; PostgreSQL wants 64 bits.
_Number = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=True),  # order of acceptance, whatever the clock says
    Column("id", String(32), nullable=False, unique=True),
    Column("owner", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("cost", Double, nullable=False),  # see `rows.cost_of`
    Column("work", Json, nullable=False),
    Column("work_hash", String(64), nullable=False),
    Column("idempotency_key", String(255)),
    Column("batch", String(255)),
    Column("metadata", Json, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("completed_at", Double),
    Column("expires_at", Double),
    Column("deadline", Double),
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lapsed_fence", Integer),  # of the lease that was last counted as a crash
    Column("worker", String(255)),
    Column("lease_until", Double),
    Column("lease_clock", String(64)),  # which clock `lease_until` is of
    Column("last_event", Integer, nullable=False),
    Column("progress", Json, nullable=False),
    Column("error", Json),
    Column("webhook", Json),
    Column("webhook_at", Double),  # when to tell it next; NULL: nothing to tell
    Column("webhook_tries", Integer, nullable=False),
    Column("origin", Json),  # the request that brought it, see `NewJob`
    UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
    sqlite_autoincrement=True,
)
# Written out, not as parameters: only then do the databases see that the indexes with a condition serve.
QUEUED = jobs.c.status == literal_column("'queued'")
HELD = jobs.c.status.in_([literal_column("'running'"), literal_column("'canceling'")])
_QUEUED, _HELD = text("status = 'queued'"), text("status IN ('running', 'canceling')")
Index("jobs_queue", jobs.c.status, jobs.c.owner, jobs.c.priority.desc(), jobs.c.seq)
Index("jobs_costs", jobs.c.model, jobs.c.cost, jobs.c.owner, sqlite_where=_QUEUED, postgresql_where=_QUEUED)
Index("jobs_leases", jobs.c.lease_until, sqlite_where=_HELD, postgresql_where=_HELD)
Index("jobs_owner", jobs.c.owner, jobs.c.seq)
Index("jobs_completed", jobs.c.completed_at)
Index("jobs_expiry", jobs.c.expires_at)
Index("jobs_webhooks", jobs.c.webhook_at)

_JOB = ForeignKey("jobs.id", ondelete="CASCADE")

events = Table(
    "events",
    metadata,
    Column("job", String(32), _JOB, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("type", String(16), nullable=False),
    Column("at", Double, nullable=False),
    Column("data", Json, nullable=False),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("job", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("index", Integer, nullable=False),
    Column("content_type", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("seed", Text, nullable=False),  # up to 2^64 - 1, which no column of integers holds
    Column("recipe", Json, nullable=False),
    Column("notices", Json, nullable=False),
    UniqueConstraint("job", "index", name="outputs_index"),
)
Index("outputs_digest", outputs.c.digest)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
)
Index("uploads_owner", uploads.c.owner, uploads.c.id)
Index("uploads_digest", uploads.c.digest)
Index("uploads_expiry", uploads.c.expires_at)

# Which uploads a job draws from: these stay while the job is there.
job_uploads = Table(
    "job_uploads",
    metadata,
    Column("job", String(32), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("upload", String(32), ForeignKey("uploads.id"), primary_key=True),
)
Index("job_uploads_upload", job_uploads.c.upload)

# Who was served when: the numbers of the turns that each owner had last. Jobs of an owner who is paused are not begun.
owners = Table(
    "owners",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column("served", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=false()),
    Column("gallery", BigInteger, nullable=False, server_default=text("0")),  # counts changes of pictures and boards
)
Index("owners_served", owners.c.served)

# The finished pictures as a library, in the order in which they were finished. What lists show and searches look
# through stands here, so that they need not read recipes.
pictures = Table(
    "pictures",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("output", String(48), ForeignKey("outputs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("job", String(32), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("batch", String(255)),
    Column("model", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("words", Text, nullable=False),  # in small letters, with spaces around each: what searches look through
    Column("created_at", Double, nullable=False),
    Column("starred", Boolean, nullable=False),
    Column("deleted_at", Double),  # it is hidden, and purged some days later
    sqlite_autoincrement=True,
)
_SHOWN, _STARRED = text("deleted_at IS NULL"), text("starred AND deleted_at IS NULL")
Index("pictures_shown", pictures.c.number, sqlite_where=_SHOWN, postgresql_where=_SHOWN)
Index("pictures_owner", pictures.c.owner, pictures.c.number, sqlite_where=_SHOWN, postgresql_where=_SHOWN)
Index("pictures_starred", pictures.c.owner, pictures.c.number, sqlite_where=_STARRED, postgresql_where=_STARRED)
Index("pictures_deleted", pictures.c.deleted_at)
Index("pictures_job", pictures.c.job)
Index("pictures_batch", pictures.c.batch)

boards = Table(
    "boards",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)
Index("boards_owner", boards.c.owner, boards.c.id)

board_pictures = Table(
    "board_pictures",
    metadata,
    Column("board", String(32), ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
    Column("picture", _Number, ForeignKey("pictures.number", ondelete="CASCADE"), primary_key=True),
)
Index("board_pictures_picture", board_pictures.c.picture)

workers = Table(
    "workers",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("device", String(64), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("models", Json, nullable=False),
    Column("numbers", Json),  # what it has counted, see `numbers.Numbers`
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False),  # of the key, under the server's secret
    Column("scopes", Json, nullable=False),
    Column("max_queue", Integer),
    Column("rate", Integer),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)
