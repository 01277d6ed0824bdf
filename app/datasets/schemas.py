"""Datasets as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from app.catalog.transforms import Fixed
from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime
from app.text import is_plain

LONGEST_NAME = 255  # characters
_TRANSFORM: TypeAdapter[Fixed] = TypeAdapter(Fixed)
Status = Literal["inspecting", "ready", "rejected"]


class DatasetFields(BaseModel):
    """The fields beside an uploaded dataset's file."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        None, min_length=1, max_length=200, description="What to call it; absent: the file's name."
    )
    fields: list[str] = Field(
        default_factory=list,
        max_length=200,
        description="Which array comes from what in the file, each `ARRAY=SOURCE`: an ending of a `.tar` "
        "(`images=png`, `labels=cls`), a column of a Parquet file, an array of an `.npz`. Only those are read.",
    )
    transforms: list[str] = Field(
        default_factory=list,
        max_length=50,
        description="What is done to each sample, in order: a JSON object each, as in "
        '`{"do": "resize", "height": 224, "width": 224}` or '
        '`{"do": "tokenize", "field": "text", "model": "mdl_…", "length": 128}`; see docs/training.md, or '
        "`burnish datasets upload --help`.",
    )

    @field_validator("fields")
    @classmethod
    def _pairs(cls, value: list[str]) -> list[str]:
        read_fields(value)
        return value

    @field_validator("transforms")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        read_transforms(value)
        return value

    def declared(self) -> dict[str, Any] | None:
        """How the file is read, as it is stored; None where nothing was said."""
        said: dict[str, Any] = {}
        if self.fields:
            said["fields"] = read_fields(self.fields)
        if self.transforms:
            said["transforms"] = [step.model_dump(mode="json") for step in read_transforms(self.transforms)]
        return said or None


def read_fields(texts: list[str]) -> dict[str, str]:
    """{array: source} from texts `ARRAY=SOURCE`.

    Raises:
        ValueError: one is no such text, or an array comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if (
            not (name and equals and source)
            or not is_plain(text)
            or max(len(name), len(source)) > LONGEST_NAME
        ):
            raise ValueError(f"{text[:100]!r} is not ARRAY=SOURCE")
        if name in found:
            raise ValueError(f"the array {name[:100]!r} comes twice")
        found[name] = source
    return found


def read_transforms(texts: list[str]) -> list[Fixed]:
    """Transforms from JSON texts.

    Raises:
        ValueError: one is no transform.
    """
    steps = []
    for number, text in enumerate(texts):
        try:
            steps.append(_TRANSFORM.validate_json(text))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"transform {number}: {where + ': ' if where else ''}{first['msg']}") from None
    return steps


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
    declared: dict[str, Any] | None = Field(
        description="How the file is read, as the uploader said it: {fields, transforms}."
    )
    problem: dict[str, Any] | None = Field(description="Why it was rejected.")
    created_at: UtcTime
