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
