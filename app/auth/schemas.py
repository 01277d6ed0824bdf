"""Keys, projects and usage as clients see them."""

from pydantic import AwareDatetime, Field, model_validator

from app.auth.service import Scope
from app.http.schemas import AnswerSchema, RequestSchema, UtcTime

MOST, MOST_BYTES = 2**31 - 1, 2**63 - 1  # what a column holds


class KeyRequest(RequestSchema):
    """A key to make."""

    name: str = Field(min_length=1, max_length=200, description="What the key is for.")
    scopes: list[Scope] = Field(
        min_length=1, max_length=3, description="`admin` implies `write`, `write` implies `read`."
    )
    expires_at: AwareDatetime | None = Field(None, description="When the key stops working; null: never.")
    project: str | None = Field(
        None,
        max_length=40,
        description="Whose key; null: the asking key's project. Another one needs an admin of the default project.",
    )


class KeyAnswer(AnswerSchema):
    """A key, without its secret."""

    id: str
    name: str
    project_id: str
    scopes: list[Scope]
    created_at: UtcTime
    expires_at: UtcTime | None
    revoked_at: UtcTime | None
    last_used_at: UtcTime | None


class NewKeyAnswer(KeyAnswer):
    """A key that was just made; its secret is shown this once."""

    secret: str = Field(description="The whole key, for `Authorization: Bearer`.")


class ProjectLimits(RequestSchema):
    """How much a project may use. Null: what the installation says (`BURNISH_PROJECT_MAX_…`). 0: no limit."""

    max_stored_bytes: int | None = Field(None, ge=0, le=MOST_BYTES, description="Bytes stored.")
    max_queued_jobs: int | None = Field(None, ge=0, le=MOST, description="Jobs that wait.")
    max_running_jobs: int | None = Field(
        None, ge=0, le=MOST, description="Jobs that run at once; others wait."
    )
    max_requests_per_minute: int | None = Field(
        None, ge=0, le=MOST, description="Requests of each key in a minute."
    )
    keep_jobs_days: int | None = Field(
        None, ge=0, le=MOST, description="Days after which finished jobs are deleted with what they made."
    )
    keep_steps_bytes: int | None = Field(None, ge=0, le=MOST_BYTES, description="Bytes of stored steps.")


class ProjectRequest(ProjectLimits):
    """A project to make."""

    name: str = Field(min_length=1, max_length=200, description="Unique within the installation.")


class ProjectChange(ProjectLimits):
    """What to change of a project; absent fields stay as they are."""

    name: str = Field(
        default_factory=str, min_length=1, max_length=200, description="Unique within the installation."
    )


class ProjectAnswer(AnswerSchema):
    """A project, with the limits of its own."""

    id: str
    name: str
    max_stored_bytes: int | None
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_requests_per_minute: int | None
    keep_jobs_days: int | None
    keep_steps_bytes: int | None
    created_at: UtcTime


class UsageQuery(RequestSchema):
    """Whose use, and the time for which `consumed` counts."""

    since: AwareDatetime | None = Field(
        None, alias="from", description="Absent: the start of this month, UTC."
    )
    until: AwareDatetime | None = Field(None, alias="to", description="Up to, without; absent: now.")
    project: str | None = Field(
        None,
        max_length=40,
        description="Absent: the asking key's project. Another one needs an admin key of the default project.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> "UsageQuery":
        if self.since is not None and self.until is not None and self.until < self.since:
            raise ValueError("`to` is before `from`")
        return self


class LimitsAnswer(AnswerSchema):
    """The limits that hold, whether the project's own or the installation's; null: none."""

    max_stored_bytes: int | None
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_requests_per_minute: int | None = Field(description="Of each key.")


class ConsumedAnswer(AnswerSchema):
    """What ended within a span of time; jobs that were deleted since count too."""

    since: UtcTime = Field(serialization_alias="from")
    until: UtcTime = Field(serialization_alias="to")
    jobs: int = Field(description="Jobs that had started and ended; a parent is none, its children are.")
    compute_seconds: float = Field(description="The sum of their times from the first start to the end.")


class UsageAnswer(AnswerSchema):
    """What the project holds, what it may, and what it has had computed."""

    project: str
    stored_bytes: int = Field(
        description="Uploads (open ones too), artifacts and cached steps; a blob counts once."
    )
    models: int
    datasets: int
    artifacts: int
    cached_steps: int
    open_uploads: int = Field(description="Resumable uploads that are not complete.")
    jobs: dict[str, int] = Field(description="Jobs by status.")
    queued_jobs: int = Field(description="Jobs that wait for a worker.")
    running_jobs: int = Field(description="Jobs that workers hold; parents do not count.")
    limits: LimitsAnswer
    consumed: ConsumedAnswer
