"""Resumable uploads as clients see them."""

from pydantic import Field, field_validator

from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, RequestSchema, UtcTime

SHA256 = r"^[0-9a-f]{64}$"


class UploadRequest(RequestSchema):
    """A file that is about to come."""

    name: str = Field(
        min_length=1,
        max_length=255,
        description="The file's name, without folders; its ending may tell its format.",
    )
    size_bytes: int | None = Field(
        None, gt=0, le=2**62, description="Its size. Absent: the last request says `Upload-Complete: ?1`."
    )
    sha256: str | None = Field(
        None,
        pattern=SHA256,
        description="Its SHA-256 in hex; an upload that ends with another one is refused.",
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not value.isprintable() or "/" in value or "\\" in value:
            raise ValueError("a name holds neither slashes nor characters that do not print")
        return value


class UploadQuery(PageQuery):
    """Which uploads to list."""

    name: str | None = Field(None, max_length=255, description="Only those of this name.")
    sha256: str | None = Field(
        None, pattern=SHA256, description="Only those that were announced with this SHA-256."
    )


class UploadAnswer(AnswerSchema):
    """A file that arrives over several requests. Once it is complete a model or a dataset is made of it, and it is gone."""

    id: str
    name: str
    size_bytes: int | None = Field(description="Null while it is not known.")
    offset_bytes: int = Field(description="How much is there: the next request goes on from here.")
    complete: bool = Field(description="Whether all of it is there and its digest was checked.")
    sha256: str | None = Field(description="As announced; of what came, once it is complete.")
    expires_at: UtcTime = Field(description="When it is removed, if nothing is added to it before.")
    created_at: UtcTime
