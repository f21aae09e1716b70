"""What brought a job, and what workers count."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("origin", sa.Text))
    op.add_column("workers", sa.Column("numbers", sa.Text))


def downgrade() -> None:
    op.drop_column("workers", "numbers")
    op.drop_column("jobs", "origin")
