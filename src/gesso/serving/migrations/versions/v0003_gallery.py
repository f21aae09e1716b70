"""The library of pictures: a row each, boards, stars; owners can be paused."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

AT_ONCE = 500


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    shown, starred = sa.text("deleted_at IS NULL"), sa.text("starred AND deleted_at IS NULL")
    op.add_column("owners", sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("owners", sa.Column("gallery", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    pictures = op.create_table(
        "pictures",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column(
            "output", sa.String(48), sa.ForeignKey("outputs.id", ondelete="CASCADE"), nullable=False, unique=True
        ),
        sa.Column("job", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("batch", sa.String(255)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("negative_prompt", sa.Text, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("starred", sa.Boolean, nullable=False),
        sa.Column("deleted_at", sa.Double),
        sqlite_autoincrement=True,
    )
    for name, columns, where in (
        ("pictures_shown", ["number"], shown),
        ("pictures_owner", ["owner", "number"], shown),
        ("pictures_starred", ["owner", "number"], starred),
        ("pictures_deleted", ["deleted_at"], None),
        ("pictures_job", ["job"], None),
        ("pictures_batch", ["batch"], None),
    ):
        op.create_index(name, "pictures", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "boards",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("boards_owner", "boards", ["owner", "id"])
    op.create_table(
        "board_pictures",
        sa.Column("board", sa.String(32), sa.ForeignKey("boards.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("picture", number, sa.ForeignKey("pictures.number", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("board_pictures_picture", "board_pictures", ["picture"])
    assert pictures is not None
    _fill(pictures)


def _fill(pictures: sa.Table) -> None:
    """The pictures that are there, in the order of their jobs."""
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            "SELECT outputs.id AS output, outputs.seed, outputs.width, outputs.height, outputs.recipe, jobs.id AS job, "
            "jobs.owner, jobs.batch, jobs.model, jobs.work, jobs.created_at, jobs.completed_at FROM outputs "
            'JOIN jobs ON jobs.id = outputs.job ORDER BY jobs.seq, outputs."index"'
        )
    )
    while rows := found.fetchmany(AT_ONCE):
        columns = pictures.c.keys()
        values = [{name: value for name, value in _row(row).items() if name in columns} for row in rows]
        connection.execute(sa.insert(pictures), values)


def _row(row: Any) -> dict[str, Any]:
    from gesso.serving.picture_rows import row_of  # may know columns of later migrations, which are left out

    at = row.completed_at if row.completed_at is not None else row.created_at
    return row_of(
        output=row.output,
        job=row.job,
        owner=row.owner,
        batch=row.batch,
        model=row.model,
        work=json.loads(row.work),
        recipe=json.loads(row.recipe),
        seed=row.seed,
        size=(row.width, row.height),
        at=at,
    )


def downgrade() -> None:
    for table in ("board_pictures", "boards", "pictures"):
        op.drop_table(table)
    for column in ("gallery", "paused"):
        op.drop_column("owners", column)
