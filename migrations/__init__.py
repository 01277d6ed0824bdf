"""Alembic's environment and the revisions of the schema; `app.migrate` runs them."""
