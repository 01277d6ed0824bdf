"""Datasets as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime

Status = Literal["inspecting", "ready", "rejected"]


class DatasetFields(BaseModel):
    """The fields beside an uploaded dataset's file."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        None, min_length=1, max_length=200, description="What to call it; absent: the file's name."
    )


class DatasetQuery(PageQuery):
    """Which datasets to list."""

    status: Status | None = Field(None, description="Only those of this status.")
    name: str | None = Field(None, max_length=200, description="Only those of this name.")


class DatasetAnswer(AnswerSchema):
    """Uploaded samples; never changed after upload."""

    id: str
    name: str
    filename: str
    format: str | None = Field(description="Null until inspected.")
    status: Status
    size_bytes: int = Field(description="Size of the file as it was uploaded.")
    sha256: str = Field(
        validation_alias="upload_digest", description="SHA-256 of the file as it was uploaded."
    )
    digest: str | None = Field(
        description="SHA-256 over the sorted (SHA-256, path) of the dataset's files. Null until inspected."
    )
    samples: int | None = Field(description="How many samples it holds.")
    inputs: dict[str, Any] | None = Field(
        description="name -> {dtype, shape}, shapes without the sample axis."
    )
    labels: dict[str, Any] | None = Field(description="{name, dtype, shape, classes}; null: it has none.")
    problem: dict[str, Any] | None = Field(description="Why it was rejected.")
    created_at: UtcTime
