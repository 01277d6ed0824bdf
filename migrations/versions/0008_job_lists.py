"""Lists of jobs by status and by label are as fast in a long table as in a short one."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_project_id_status_created_at_id", "jobs", ["project_id", "status", "created_at", "id"]
    )
    op.create_index(
        "ix_jobs_labels",
        "jobs",
        ["labels"],
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_labels", "jobs")
    op.drop_index("ix_jobs_project_id_status_created_at_id", "jobs")
