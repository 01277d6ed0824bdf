"""Parameters of the passes that prepare a network for 8 bits, and compute the same."""

from pydantic import Field

from app.catalog.spec import Params


class EqualizeParams(Params):
    """Scales the channels between neighbouring layers so that both layers' weights use their range evenly (cross-layer
    equalization). The network computes the same; 8-bit weights with one scale a tensor lose much less.

    For convolutional networks with ReLU, leaky ReLU or pooling between layers; depthwise ones gain most. Run
    `simplify` before, so that batch norms are merged, and a quantizing pass after. Little is gained with one scale a
    channel, which is the default of `quantize-static`: it is for targets without. ReLU6 and other clipping is left as it is.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, section 4.1
    (https://arxiv.org/abs/1906.04721).
    """

    rounds: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="The most rounds over all pairs; fewer where nothing changes any more.",
    )
    excluded_nodes: tuple[str, ...] = Field(
        default=(), description="Names of layers' nodes that are not scaled with the layer after them."
    )


class SmoothParams(Params):
    """Moves the spread of activations into weights, channel by channel, where a layer norm feeds matrix products
    (SmoothQuant). The network computes the same; 8-bit activations lose much less to channels of outliers.

    For transformers, before `quantize-static` or `quantize-dynamic`. A norm that feeds products alone takes the scales into
    its own parameters; where something else reads it too (the residual of a post-norm network such as BERT), the
    products get a multiplication before them. Layer norms in single operators are not seen: run `simplify` before.

    Source: Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, 2022,
    equation 4 (https://arxiv.org/abs/2211.10438).
    """

    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="How much of the spread weights take over: 0 evens out weights alone, 1 activations alone.",
    )
    insert: bool = Field(
        default=True,
        description="Insert a multiplication where a norm's parameters cannot take the scales. False: leave such products.",
    )
    samples: int | None = Field(
        default=None, ge=1, description="Look at no more than this many samples. Absent: all of them."
    )
    excluded_nodes: tuple[str, ...] = Field(
        default=(), description="Names of products whose inputs stay; with one, all that read the same norm."
    )
