"""Models as clients see them."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from app.http.paging import PageQuery
from app.http.schemas import AnswerSchema, UtcTime

Status = Literal["inspecting", "ready", "rejected"]


class Tensor(BaseModel):
    """An input or output: a NumPy dtype, and a shape whose free dimensions are a name or null."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=500)
    dtype: str = Field(pattern=r"^[a-z0-9_]{1,30}$")
    shape: list[int | str | None] = Field(max_length=32)


class Signature(BaseModel):
    """What a model takes and gives."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Tensor] = Field(default_factory=list, max_length=1000)
    outputs: list[Tensor] = Field(default_factory=list, max_length=1000)


class ModelFields(BaseModel):
    """The fields beside an uploaded model's file."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        None, min_length=1, max_length=200, description="What to call it; absent: the file's name."
    )
    format: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$", description="Absent: the inspection finds out."
    )
    architecture: str | None = Field(
        None, min_length=1, max_length=200, description="The architecture of files that hold weights alone."
    )
    license: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="The model's licence, best as an SPDX expression (`Apache-2.0`): bundles name it.",
    )
    signature: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="For files that do not tell: the inputs, each `NAME:DTYPE:DIM,DIM…` (a free dimension is a "
        'name or `?`), or one JSON text `{"inputs": [{"name", "dtype", "shape"}], "outputs": […]}`.',
    )

    @field_validator("signature")
    @classmethod
    def _readable(cls, value: list[str]) -> list[str]:
        read_signature(value)
        return value

    def declared(self) -> dict[str, Any]:
        """What the uploader said of the file, as it is stored; absent fields are left out."""
        said: dict[str, Any] = {}
        if self.format is not None:
            said["format"] = self.format
        if self.architecture is not None:
            said["architecture"] = self.architecture
        if self.license is not None:
            said["license"] = self.license
        if self.signature:
            said["signature"] = read_signature(self.signature).model_dump()
        return said


def read_signature(texts: list[str]) -> Signature:
    """The signature that texts declare (see `ModelFields.signature`).

    Raises:
        ValueError: a text is neither form.
    """
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        try:
            return Signature.model_validate(json.loads(texts[0]))
        except ValidationError as error:
            found = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, found['loc']))}: {found['msg']}") from error
    return Signature(inputs=[_read_tensor(text) for text in texts])


def _read_tensor(text: str) -> Tensor:
    parts = text.rsplit(":", 2)  # names may hold colons, as TensorFlow's do
    if len(parts) != 3:
        raise ValueError(f"{text!r} is not NAME:DTYPE:DIM,DIM… as in x:float32:batch,3,224,224")
    name, dtype, dims = parts
    shape = [_read_dim(dim.strip()) for dim in dims.split(",")] if dims.strip() else []
    return TypeAdapter(Tensor).validate_python({"name": name, "dtype": dtype, "shape": shape})


def _read_dim(dim: str) -> int | str | None:
    if dim.isdecimal():
        return int(dim)
    return None if dim in ("", "?") else dim


class ModelQuery(PageQuery):
    """Which models to list."""

    status: Status | None = Field(None, description="Only those of this status.")
    name: str | None = Field(None, max_length=200, description="Only those of this name.")


class ModelAnswer(AnswerSchema):
    """An uploaded network; never changed after upload."""

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
        description="SHA-256 over the sorted (SHA-256, path) of the model's files, whatever archive they came in. "
        "Null until inspected."
    )
    declared: dict[str, Any] = Field(
        description="What the uploader said: format, signature, architecture, license."
    )
    signature: dict[str, Any] | None = Field(
        description="`{inputs, outputs}`, each a list of {name, dtype, shape}."
    )
    facts: dict[str, Any] | None = Field(description="Opset, parameters, FLOPs, operator counts and more.")
    problem: dict[str, Any] | None = Field(description="Why it was rejected.")
    created_at: UtcTime


class LayerAnswer(AnswerSchema):
    """A layer of a model, for one sample."""

    name: str = Field(description="Of a program the layer that passes name too, of ONNX the node.")
    kind: str = Field(
        description="The layer's class (`Conv2d`), the operator (`MatMul`), or `weight`: a parameter that the graph reads itself."
    )
    parameters: int = Field(description="Elements of its weights; a weight of two layers is the first one's.")
    flops: int | None = Field(
        description="Operations, a multiply and an add counted as two; null where shapes are not known."
    )
    output: list[int] = Field(description="Shape of its output without the batch.")
    savings: dict[str, dict[str, Any]] = Field(
        description="What passes could save there, by pass: `flops` and `parameters` that would be left "
        "(`depthwise-separable`), the `break_even_rank` below which `low-rank` saves, in how many `units` `prune-channels` could remove "
        "its `channels` (of programs that are run when they are inspected), and the `weights` that `prune-weights` "
        "may set to zero, with `two_of_four` where their shape fits 2:4; for `shrink-depth` the residual `branch` that the layer is in, and "
        "the `flops` and `parameters` that go with that."
    )


class StructureAnswer(AnswerSchema):
    """The layers of a model."""

    source: Literal["program", "onnx"] = Field(
        description="What was counted: the PyTorch program that passes change, or the ONNX graph."
    )
    parameters: int = Field(description="Of all layers.")
    flops: int = Field(description="Of all layers, for one sample; free dimensions count as 1.")
    layers: list[LayerAnswer] = Field(
        description="Those with weights or FLOPs, in the order of the graph; at most 10,000."
    )
    left_out: int = Field(description="Layers beyond those, which the sums hold too.")
