"""What `quantize-static` does to a network, but for where the ranges come from: calibration before training, training after it."""

from dataclasses import dataclass, field

import onnx

from app.catalog.pass_params.qat import QatParams
from app.catalog.pass_params.quantization import FUSED_OPERATORS, QuantizeStaticParams
from app.errors import IncompatibleRecipe
from workers import qdq, quantize_for_tensorrt
from workers.calibration import Plan, Ranges
from workers.onnx_nodes import check_names
from workers.onnx_prepare import sort_nodes
from workers.passes import quantize_static


@dataclass
class Form:
    """How a prepared network with folded batch norms is quantized. `tensors`: those that need a range."""

    params: QatParams
    operators: list[str]
    excluded: list[str]
    tensors: list[str]
    static: QuantizeStaticParams = field(init=False)

    def __post_init__(self) -> None:
        known = set(QuantizeStaticParams.model_fields) & set(QatParams.model_fields)
        given = {name: getattr(self.params, name) for name in known}
        self.static = QuantizeStaticParams.model_validate(given)

    @property
    def symmetric(self) -> bool:
        """Whether activations are."""
        return self.params.form == "tensorrt" or self.params.symmetric_activations

    @property
    def plan(self) -> Plan:
        """How ranges are calibrated."""
        unsigned = self.params.activation_type == "uint8" and not self.symmetric
        return Plan(
            self.tensors, self.params.method, self.params.histogram_bins, self.params.percentile,
            self.params.samples, unsigned=unsigned,
        )  # fmt: skip

    def quantize(self, model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
        """The network in 8 bits, by these ranges."""
        if self.params.form == "onnxruntime":
            found = quantize_static.quantized(model, ranges, self.operators, self.excluded, self.static)
        else:
            found = onnx.ModelProto()
            found.CopyFrom(model)
            qdq.insert(
                found,
                qdq.Placement(found, self.operators, self.excluded),
                ranges,
                qdq.INT8,
                per_channel=self.params.per_channel,
                half_scales=self.params.rest == "fp16",
            )
        sort_nodes(found.graph)
        return found

    def reason(self, node: onnx.NodeProto, model: onnx.ModelProto) -> str:
        """Why a node of the model is not quantized, in words."""
        if self.params.form == "tensorrt":
            return quantize_for_tensorrt.reason(node, self.operators, self.params.excluded_nodes)
        return quantize_static.reason(node, model, self.operators, self.static)


def form_of(model: onnx.ModelProto, params: QatParams, stage: str) -> Form:
    """The form that the parameters ask for, of this network.

    Raises:
        InvalidParams: an excluded node is not in it.
        IncompatibleRecipe: it has nothing to quantize.
    """
    check_names(model, params.excluded_nodes, "excluded_nodes")
    if params.form == "onnxruntime":
        operators = sorted(set(params.operators or FUSED_OPERATORS) - set(params.excluded_operators))
        excluded = sorted({*params.excluded_nodes, *quantize_static.left_alone(model)})
        tensors = quantize_static.float_tensors(model, operators, excluded)
    else:
        wanted = set(params.operators or qdq.OPERATORS) - set(params.excluded_operators)
        operators, excluded = sorted(wanted & set(qdq.OPERATORS)), sorted(params.excluded_nodes)
        placement = qdq.Placement(model, operators, excluded)
        tensors = placement.activations if placement.products else []
    if not tensors:
        raise IncompatibleRecipe(
            f"the network has no operator to quantize: none of {', '.join(operators)} works on fp32 values",
            stage=stage,
            hint=f"leave {stage} out of the recipe",
        )
    return Form(params, operators, excluded, tensors)
