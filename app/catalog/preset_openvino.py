"""What jobs for OpenVINO's GPU and NPU get that name no recipe."""

from app.catalog.presets import openvino_preset
from app.catalog.spec import PresetChoice, PresetContext

_UNTRIED = "These are the passes for openvino-cpu, whose form GPUs and NPUs take too: their speed there was never measured."
_STATIC = "An NPU takes fixed shapes: `set-shapes` fixes them, in a recipe of your own."


def openvino_gpu_preset(context: PresetContext) -> PresetChoice:
    """The preset for OpenVINO on Intel GPUs: the passes of `openvino-cpu`, 8 bit where calibration data is at hand.

    GPUs compute NNCF's form in 8 bits as CPUs do. Nobody measured it here.

    Source: https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training.html.
    """
    return PresetChoice(openvino_preset(context).passes, [_UNTRIED])


def openvino_npu_preset(context: PresetContext) -> PresetChoice:
    """The preset for OpenVINO on Intel NPUs: the passes of `openvino-cpu`, 8 bit where calibration data is at hand.

    A model with free dimensions must get `set-shapes` first, which only its owner can choose. Nobody measured it here.
    """
    return PresetChoice(openvino_preset(context).passes, [_UNTRIED, _STATIC])
