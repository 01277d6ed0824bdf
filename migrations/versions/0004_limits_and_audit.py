"""What a project may use, the order in which its jobs are claimed, and who did what."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("subject_id", sa.String(length=40), nullable=True),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column("detail", sa.JSON().with_variant(postgresql.JSONB(), "postgresql"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_audit_entries_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )

    with op.batch_alter_table("audit_entries", schema=None) as batch_op:
        batch_op.create_index(
            "ix_audit_entries_project_id_created_at_id", ["project_id", "created_at", "id"], unique=False
        )

    op.create_table(
        "consumption",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("project_id", sa.String(length=40), nullable=False),
        sa.Column("seconds", sa.Float(precision=53), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_consumption_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_consumption")),
    )

    with op.batch_alter_table("consumption", schema=None) as batch_op:
        batch_op.create_index(
            "ix_consumption_project_id_finished_at", ["project_id", "finished_at"], unique=False
        )

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_project_id_status_queue_created_at_id",
            ["project_id", "status", "queue", "created_at", "id"],
            unique=False,
        )

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("max_queued_jobs", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("max_running_jobs", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("max_requests_per_minute", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("keep_jobs_days", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("keep_steps_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_column("served_at")
        batch_op.drop_column("keep_steps_bytes")
        batch_op.drop_column("keep_jobs_days")
        batch_op.drop_column("max_requests_per_minute")
        batch_op.drop_column("max_running_jobs")
        batch_op.drop_column("max_queued_jobs")
        batch_op.drop_column("max_stored_bytes")

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_project_id_status_queue_created_at_id")

    with op.batch_alter_table("audit_entries", schema=None) as batch_op:
        batch_op.drop_index("ix_audit_entries_project_id_created_at_id")

    with op.batch_alter_table("consumption", schema=None) as batch_op:
        batch_op.drop_index("ix_consumption_project_id_finished_at")

    op.drop_table("consumption")
    op.drop_table("audit_entries")
