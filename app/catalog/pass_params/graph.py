"""Parameters of the passes that change a graph and leave its precision."""

from typing import Annotated

from pydantic import Field, StrictInt, model_validator

from app.catalog.spec import Params

Dimension = (
    Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
    | Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
)  # a size, or a name for a free one


class SimplifyParams(Params):
    """Folds constants, merges batch norms and bias additions, and removes what has no effect.

    Inputs, outputs, free dimensions and precision stay. Nodes inside `If`, `Loop` and `Scan` are kept as they are used.

    Source: onnxslim (https://github.com/inisis/OnnxSlim), which iterates constant folding, pattern fusion, dead-node
    and common-subexpression elimination, and symbolic shape inference until nothing changes.
    """

    shape_inference: bool = Field(
        default=True,
        description="Infer shapes, so that shape computations with fixed results can be folded as well.",
    )
    fuse: bool = Field(
        default=True,
        description="Merge neighbouring operators (convolution and batch norm, padding, MatMul and Add, GELU …).",
    )
    fold_limit_bytes: int = Field(
        default=1 << 20,
        ge=1,
        description="Constants that folding would make larger than this, in bytes, are left to be computed at run time.",
    )


class SetShapesParams(Params):
    """Fixes or names the free dimensions of inputs; every shape inside is inferred anew.

    Runtimes that compile for one shape (NPUs, CUDA graphs) need fixed ones, others fold what then is constant: run
    `simplify` afterwards. Equal names stand for equal sizes: fixing one fixes it wherever it stands. A size that is
    fixed already is not changed, as constants inside the model may rely on it.

    An engine of a fixed batch is compared with the original on batches of that size, and both are timed on them;
    calibration and evaluation samples must have the sizes that are fixed besides the batch.

    Source: ONNX's shape inference with data propagation
    (https://github.com/onnx/onnx/blob/main/docs/ShapeInference.md), strict, and a run beside the original.
    """

    dimensions: dict[str, Dimension] = Field(
        default_factory=dict,
        description='By the dimension\'s name in the model: its size, or its new name, as in `{"batch": 1}`.',
    )
    inputs: dict[str, list[Dimension | None]] = Field(
        default_factory=dict,
        description=(
            "By input: its whole shape, as in "
            '`{"images": [1, 3, null, null]}`; null leaves a dimension as it is.'
        ),
    )

    @model_validator(mode="after")
    def _says_something(self) -> "SetShapesParams":
        if not self.dimensions and not self.inputs:
            raise ValueError("give `dimensions` or `inputs`: without them nothing would change")
        return self
