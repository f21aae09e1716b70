"""Jobs, their events and pictures, uploads, owners, workers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    queued, held = sa.text("status = 'queued'"), sa.text("status IN ('running', 'canceling')")
    op.create_table(
        "jobs",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("work", sa.Text, nullable=False),
        sa.Column("work_hash", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("batch", sa.String(255)),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("completed_at", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("deadline", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("lapsed_fence", sa.Integer),
        sa.Column("worker", sa.String(255)),
        sa.Column("lease_until", sa.Double),
        sa.Column("lease_clock", sa.String(64)),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("webhook", sa.Text),
        sa.Column("webhook_at", sa.Double),
        sa.Column("webhook_tries", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_queue", "jobs", ["status", "owner", sa.text("priority DESC"), "seq"])
    op.create_index("jobs_costs", "jobs", ["model", "cost", "owner"], sqlite_where=queued, postgresql_where=queued)
    op.create_index("jobs_leases", "jobs", ["lease_until"], sqlite_where=held, postgresql_where=held)
    op.create_index("jobs_owner", "jobs", ["owner", "seq"])
    op.create_index("jobs_completed", "jobs", ["completed_at"])
    op.create_index("jobs_expiry", "jobs", ["expires_at"])
    op.create_index("jobs_webhooks", "jobs", ["webhook_at"])
    op.create_table(
        "events",
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_table(
        "outputs",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("content_type", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("seed", sa.Text, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("notices", sa.Text, nullable=False),
        sa.UniqueConstraint("job", "index", name="outputs_index"),
    )
    op.create_index("outputs_digest", "outputs", ["digest"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("content_type", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
    )
    op.create_index("uploads_owner", "uploads", ["owner", "id"])
    op.create_index("uploads_digest", "uploads", ["digest"])
    op.create_index("uploads_expiry", "uploads", ["expires_at"])
    op.create_table(
        "job_uploads",
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("upload", sa.String(32), sa.ForeignKey("uploads.id"), primary_key=True),
    )
    op.create_index("job_uploads_upload", "job_uploads", ["upload"])
    op.create_table(
        "owners",
        sa.Column("owner", sa.String(255), primary_key=True),
        sa.Column("served", sa.BigInteger, nullable=False),
    )
    op.create_index("owners_served", "owners", ["served"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("models", sa.Text, nullable=False),
    )
