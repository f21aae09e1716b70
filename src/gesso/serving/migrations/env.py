"""Run by Alembic: applies migrations on the connection that `Database` hands over, within its transaction."""

from alembic import context

from gesso.serving.tables import metadata

given = context.config.attributes
context.configure(connection=given["connection"], target_metadata=metadata, version_table=given["version_table"])
context.run_migrations()
