"""Stored steps by last use."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("step_results", schema=None) as batch_op:
        batch_op.create_index(
            "ix_step_results_project_id_last_used_at", ["project_id", "last_used_at"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("step_results", schema=None) as batch_op:
        batch_op.drop_index("ix_step_results_project_id_last_used_at")
