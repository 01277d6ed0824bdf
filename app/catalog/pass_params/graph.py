"""Parameters of the passes that change a graph and leave its precision."""

from typing import Annotated, Literal

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


class FuseTransformerParams(Params):
    """Makes single operators of a transformer's parts: attention, layer norm with the addition before it, GELU with
    its bias, embeddings. The result uses ONNX Runtime's own operators, which OpenVINO reads too, and nothing else.

    Attention becomes `MultiHeadAttention` (or `Attention`, with one product for all projections, where the graph is that of
    PyTorch's older exporter) and holds no matrix of all scores: what long sequences gain most from. ONNX Runtime
    fuses some of this itself at `graph_optimization` extended and all, but not the attention of current exporters.
    `simplify` before it helps current exporters' graphs, and hides `Attention` in those of the older one.
    `quantize-dynamic` takes the result, `Attention` included. Outputs are compared with the original's on random inputs.

    Sources: ONNX Runtime's transformer optimizer
    (https://onnxruntime.ai/docs/performance/transformers-optimization.html), and for attention in any other form a
    search of our own; Dao et al., FlashAttention, 2022 (https://arxiv.org/abs/2205.14135), for why it pays.
    """

    model_type: Literal["bert", "bart", "gpt2", "swin", "t5", "vit"] = Field(
        default="bert",
        description="The kind of network whose patterns ONNX Runtime's optimizer looks for; bert also fits most encoders.",
    )
    heads: int = Field(default=0, ge=0, description="Attention heads. 0: as the graph shows.")
    hidden_size: int = Field(default=0, ge=0, description="Width of a hidden state. 0: as the graph shows.")
    attention: bool = Field(default=True, description="Fuse attention.")
    layer_norm: bool = Field(
        default=True, description="Fuse layer norms that are written out in single operators."
    )
    skip_layer_norm: bool = Field(default=True, description="Fuse a layer norm with the addition before it.")
    gelu: bool = Field(default=True, description="Fuse GELU, and the addition of a bias before it.")
    embeddings: bool = Field(default=True, description="Fuse the embeddings, their sum and their layer norm.")
    padding: Literal["anywhere", "right"] = Field(
        default="anywhere",
        description="Where attention masks are 0: `right` is a little faster, and wrong for masks with 0 before a 1.",
    )
