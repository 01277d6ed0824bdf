"""Keys, projects and usage as clients see them."""

from pydantic import AwareDatetime, Field

from app.auth.service import Scope
from app.http.schemas import AnswerSchema, RequestSchema, UtcTime


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


class ProjectRequest(RequestSchema):
    """A project to make."""

    name: str = Field(min_length=1, max_length=200, description="Unique within the installation.")


class ProjectAnswer(AnswerSchema):
    """A project."""

    id: str
    name: str
    created_at: UtcTime


class UsageAnswer(AnswerSchema):
    """What the project holds."""

    stored_bytes: int = Field(description="Uploads, artifacts and cached steps; a blob counts once.")
    models: int
    datasets: int
    artifacts: int
    cached_steps: int
    jobs: dict[str, int] = Field(description="Jobs by status.")
