"""Parameters of the passes that change a graph and leave its precision."""

from pydantic import Field

from app.catalog.spec import Params


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
