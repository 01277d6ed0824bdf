"""The project that everything belongs to until there are more."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PROJECTS = sa.table(
    "projects",
    sa.column("id", sa.String),
    sa.column("name", sa.String),
    sa.column("created_at", sa.DateTime(timezone=True)),
)


def upgrade() -> None:
    default = {"id": "prj_default", "name": "default", "created_at": datetime.now(UTC)}
    op.bulk_insert(PROJECTS, [default])


def downgrade() -> None:
    op.execute(PROJECTS.delete().where(PROJECTS.c.id == "prj_default"))
