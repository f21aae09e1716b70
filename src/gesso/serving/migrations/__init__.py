"""The tables of the queue, release by release (Alembic). `Database` applies what is missing when it is opened."""
