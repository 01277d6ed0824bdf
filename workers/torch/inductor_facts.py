"""What Inductor made of a program: read from the C++ that it generated."""

import re
from collections import Counter
from typing import Any

from torch.export import ExportedProgram

from workers.torch.facts import CONVOLUTIONS, Layer, layers, weights

KERNEL = "generated kernel"
_RUN = "::run_impl("  # the function that runs the network, after the kernels and the constants
_LIBRARY = re.compile(r"\b(?:aoti_torch_(?:cpu|cuda|mps|xpu)_)(\w+)\(")
_FALLBACK = re.compile(r"\baoti_torch_proxy_executor_call_function\(")
_KERNEL_CALL = re.compile(r"^\s*(?:call_)?((?:cpp|triton)_\w+?)\(", re.MULTILINE)
_KERNEL_BODY = re.compile(r'extern "C"[^;{]*?\b(cpp_\w+)\(')
_GEMM = re.compile(r"CppMicroGemm(\w+?)_?\d*\b")
PRODUCTS = re.compile(
    r"linear|matmul|(^|_)(mm|bmm|addmm|baddbmm|int_mm|int8pack_mm)(_|$)|convolution|qconv|conv\d?d|rnn|lstm|gru|attention"
)
_CONVOLUTION = re.compile(r"conv")
EIGHT_BIT = re.compile(r"qlinear|qconv|int_mm")


def compiled_facts(program: ExportedProgram, source: str, freezing: bool) -> dict[str, Any]:
    """Facts of compiled code, with the keys of `onnx_facts.graph_facts`; a node is a call of a library or of a kernel.

    `explained` are the sentences that `why` takes in place of its own on ONNX Runtime's kernels.
    """
    found = layers(program)
    kinds = Counter(layer.quantized for layer in found if layer.quantized)
    operators, precision, compute, convolutions = (Counter[str]() for _ in range(4))
    plainly = Counter(layer.precision for layer in found).most_common(1)
    floating = plainly[0][0] if plainly else "fp32"
    eight = "int8-dynamic" if kinds["int8-dynamic"] else "int8"
    kernels = _kernels(source)
    for name in _calls(source):
        operators[name if name not in kernels and not name.startswith(("cpp_", "triton_")) else KERNEL] += 1
        if name.startswith(("cpp_", "triton_")):
            products = _GEMM.findall(kernels.get(name, ""))
            where = floating if products or "quantize" not in name else "conversion"
            compute.update({floating: 1} if products else {})
        elif PRODUCTS.search(name):
            where = eight if EIGHT_BIT.search(name) else "weights-8bit" if "int8pack" in name else floating
            compute[where] += 1
            convolutions.update({where: 1} if _CONVOLUTION.search(name) else {})
        else:
            where = floating
        precision[where] += 1
    missing = max(0, kinds["int8"] + kinds["int8-dynamic"] - compute["int8"] - compute["int8-dynamic"])
    facts = {
        "nodes": sum(operators.values()),
        "operators": dict(operators),
        "precision": dict(precision),
        "compute": dict(compute),
        "convolutions": dict(convolutions),
        "conversions": {"quantize kernels": precision["conversion"]} if precision["conversion"] else {},
        "unfused": {"count": missing, "nodes": []},
        **weights(program),
        "hardware_layout": True,
    }
    return {**facts, "explained": _explained(facts, found, kinds, freezing)}


def _calls(source: str) -> list[str]:
    """Libraries' functions and generated kernels, as often as the network calls them."""
    start = source.rfind(_RUN)
    body = source[start:] if start >= 0 else ""
    end = body.find("\n} // ")
    body = body[:end] if end >= 0 else body
    fallbacks = ["fallback"] * len(_FALLBACK.findall(body))
    return [*_LIBRARY.findall(body), *_KERNEL_CALL.findall(body), *fallbacks]


def _kernels(source: str) -> dict[str, str]:
    """The bodies of the generated C++ functions by name."""
    starts = list(_KERNEL_BODY.finditer(source))
    ends = [*(found.start() for found in starts[1:]), len(source)]
    return {found[1]: source[found.end() : end] for found, end in zip(starts, ends, strict=True)}


def _explained(facts: dict[str, Any], found: list[Layer], kinds: Counter[str], freezing: bool) -> list[str]:
    operators = facts["operators"]
    kernels = operators.get(KERNEL, 0)
    sentences = [
        f"Inductor made {kernels} kernels of its own for all that is elementwise, and calls libraries (oneDNN, ATen) "
        f"{facts['nodes'] - kernels} times."
    ]
    if missing := facts["unfused"]["count"]:
        advice = "" if freezing else " freezing=true is needed for them."
        sentences.append(
            f"{missing} of {kinds['int8'] + kinds['int8-dynamic']} quantized layers found no 8-bit kernel: they compute in "
            f"floating point and pay for converting their inputs besides.{advice}"
        )
    if dynamic := facts["compute"].get("int8-dynamic", 0):
        verb = "take" if dynamic > 1 else "takes"
        sentences.append(
            f"{dynamic} layers {verb} the range of the activations anew on every call, which costs time that grows with "
            "the input, not with the weights."
        )
    if packed := kinds["weights-8bit"]:
        what = (
            "were unpacked into floating point when the engine was built (freezing=true): it is as large and as fast as "
            "one of unquantized weights"
            if freezing
            else "are unpacked into floating point on every call: the engine is smaller, not faster"
        )
        sentences.append(f"The 8-bit weights of {packed} layers {what}.")
    left = sum(1 for layer in found if not layer.quantized and layer.operator in CONVOLUTIONS)
    if kinds and left:
        sentences.append(f"{left} convolutions were not quantized.")
    if operators.get("fallback"):
        sentences.append(
            f"{operators['fallback']} operators have no compiled form and run as in eager PyTorch."
        )
    return sentences
