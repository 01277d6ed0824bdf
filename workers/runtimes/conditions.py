"""What an engine of each runtime needs of a machine: `validity.conditions` of its manifest (see `app.artifacts.envelope`)."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from app.artifacts.envelope import (
    Condition,
    all_of,
    any_of,
    at_least,
    at_most,
    equal,
    none_of,
    same_minor,
)
from workers.runtimes.cpu_features import cpu_features

INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
X86 = ("x86_64", "AMD64")
NARROW_LAYOUT, WIDE_LAYOUT = 8, 16  # channels in a block of ONNX Runtime's layout


def listed(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Conditions as a manifest has them."""
    return [condition.as_json() for condition in conditions]


def onnxruntime_cpu(version: str, facts: Mapping[str, Any]) -> list[Condition]:
    """Of a graph that ONNX Runtime's CPU provider saved after its own optimizations (`onnx_facts.graph_facts`).

    The layouts of `hardware_layout` have blocks of 16 channels where there is AVX-512 and of 8 elsewhere (MLAS,
    `MlasNchwcGetBlockSize`), and the weights were laid out for it when the engine was built: it goes wrong in both directions.
    """
    needed = _onnxruntime(version)
    if facts.get("hardware_layout"):
        needed.append(_architecture("no", "its weights are laid out for this kind of processor"))
        if platform.machine() in X86:
            needed.append(_block(cpu_features()))
    else:
        needed.append(_architecture("unproved", "other processors' kernels may round differently"))
    return [*needed, *_int8(facts)]


def onnxruntime_gpu(version: str, capability: str, *, compiled: bool) -> list[Condition]:
    """Of a graph that ONNX Runtime runs on GPUs; `compiled` where it holds what TensorRT built for one kind of GPU."""
    if compiled:
        why = "it holds an engine that TensorRT built for this kind of GPU"
        return [
            same_minor("package:onnxruntime", version, "no", "its engines follow ONNX Runtime's TensorRT"),
            equal("compute_capability", capability, "no", why),
        ]
    return [*_onnxruntime(version), _gpu(capability)]


def openvino_cpu(
    version: str, facts: Mapping[str, Any], precision_needs: Sequence[str], blob_cpu: str | None
) -> list[Condition]:
    """Of an IR, which is compiled where it is loaded.

    `precision_needs` are instruction sets, any of which makes the inference precision native; `blob_cpu` is the
    processor that a compiled blob beside the IR was made for.
    """
    needed = [
        at_least(
            "package:openvino", _minor(version), "no", "older versions do not read an IR of a later one"
        ),
        _architecture("unproved", "other processors' kernels may round differently"),
    ]
    if precision_needs:
        why = "without them OpenVINO computes in a wider type"
        needed.append(any_of("cpu_features", precision_needs, "slow", why))
    if blob_cpu is not None:
        why = "the compiled network beside the IR is not used elsewhere: loading takes longer"
        needed += [
            equal("cpu", blob_cpu, "slow", why),
            equal("package:openvino", version, "slow", why),
        ]
    return [*needed, *_int8(facts)]


def openvino_accelerator(version: str, device: str) -> list[Condition]:
    """Of an IR for `intel-gpu` or `intel-npu`, which is compiled where it is loaded."""
    return [
        any_of("accelerators", [device], "no", "it runs on such a device alone"),
        at_least(
            "package:openvino", _minor(version), "no", "older versions do not read an IR of a later one"
        ),
    ]


def torch_program(version: str, capability: str | None = None) -> list[Condition]:
    """Of an exported program that eager PyTorch runs; `capability` of the GPU that it was measured on."""
    return [
        *([_gpu(capability)] if capability else []),
        at_least(
            "package:torch", _minor(version), "no", "older versions do not read the programs of a later one"
        ),
        at_most("package:torch", _minor(version), "unproved", "a later version may compute differently"),
        _architecture("unproved", "other processors' kernels may round differently"),
    ]


def stablehlo(version: str, device: str) -> list[Condition]:
    """Of a program that `jax.export` serialized, for the CPU or a TPU. JAX reads programs for six months at least.

    Source: https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees.
    """
    if device == "cpu":
        needed = [_architecture("unproved", "other processors' kernels may round differently")]
    else:
        needed = [any_of("accelerators", [device], "no", "it runs on such a device alone")]
    return [
        *needed,
        at_least("package:jax", _minor(version), "no", "older versions may not read programs of a later one"),
        at_most(
            "package:jax", _minor(version), "unproved", "later versions read programs for six months at least"
        ),
    ]


def compiled_code(version: str, threads: int | None, capability: str | None) -> list[Condition]:
    """Of a library that AOTInductor compiled, for the processor that it was compiled on.

    `threads` are those that the code shares its work among; `capability` is the GPU's that its kernels are for.
    """
    library, glibc = platform.libc_ver()
    needed = [
        same_minor("package:torch", version, "no", "its code calls PyTorch as it was in this version"),
        equal("system", platform.system(), "no", "it is a library of this system"),
        _architecture("no", "it is machine code"),
    ]
    if library == "glibc":
        needed.append(at_least("glibc", glibc, "no", "it was linked with this version of the C library"))
    if capability is not None:
        needed.append(equal("compute_capability", capability, "no", "its kernels were compiled for this GPU"))
    else:
        why = "the compiler was told to use every instruction of the processor"
        needed.append(all_of("cpu_features", cpu_features(), "no", why))
    if threads is not None:
        why = "its loops are shared among so many threads, however many processors there are"
        needed.append(at_least("processors", threads, "slow", why))
    return needed


def _onnxruntime(version: str) -> list[Condition]:
    """Of a graph that ONNX Runtime saved after its own optimizations."""
    return [
        at_least(
            "package:onnxruntime",
            _minor(version),
            "no",
            "it may hold operators, or a form of the file, that came with the version that built it",
        ),
        at_most(
            "package:onnxruntime",
            _minor(version),
            "unproved",
            "later versions read standard ONNX, and may change the operators of ONNX Runtime's own that it was fused into",
        ),
    ]


def _architecture(otherwise: Any, why: str) -> Condition:
    return equal("architecture", platform.machine(), otherwise, why)


def _gpu(capability: str) -> Condition:
    return equal(
        "compute_capability",
        capability,
        "unproved",
        "other GPUs have other kernels, which may round differently",
    )


def _block(features: Sequence[str]) -> Condition:
    wide = "avx512f" in features
    why = f"its weights are laid out in blocks of {WIDE_LAYOUT if wide else NARROW_LAYOUT} channels"
    return (all_of if wide else none_of)("cpu_features", ["avx512f"], "no", why)


def _int8(facts: Mapping[str, Any]) -> list[Condition]:
    """For what computes in 8 bits: the instructions that it was measured with, if there were any."""
    computes = {"int8", "int8-dynamic"} & set(facts.get("compute", {}))
    if not computes or not set(INT8_INSTRUCTIONS) & set(cpu_features()):
        return []
    why = "without instructions for products of 8-bit numbers, they take several others, and may saturate in between"
    return [any_of("cpu_features", INT8_INSTRUCTIONS, "slow", why)]


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])
