"""Stored steps by last use; which files trees hold; a pause of the collector."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tree_files",
        sa.Column("tree", sa.String(length=64), nullable=False),
        sa.Column("file", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("tree", "file", name=op.f("pk_tree_files")),
    )

    with op.batch_alter_table("tree_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tree_files_file"), ["file"], unique=False)

    op.create_table(
        "pauses",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pauses")),
    )

    with op.batch_alter_table("step_results", schema=None) as batch_op:
        batch_op.create_index(
            "ix_step_results_project_id_last_used_at", ["project_id", "last_used_at"], unique=False
        )

    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_artifacts_tree_digest"), ["tree_digest"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_artifacts_tree_digest"))

    with op.batch_alter_table("step_results", schema=None) as batch_op:
        batch_op.drop_index("ix_step_results_project_id_last_used_at")

    op.drop_table("pauses")
    op.drop_table("tree_files")
