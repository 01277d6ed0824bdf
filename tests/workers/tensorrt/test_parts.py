"""The parts that need no library: what is heard, shapes, layer reports, progress, the driver's absence."""

import numpy as np
import pytest

from app.catalog.runtime_params.tensorrt import TensorRtParams, TensorRtRtxParams
from app.errors import InvalidModel, InvalidParams, OutOfMemory, SignatureMismatch, Unavailable
from workers.gpu import gpus
from workers.tensorrt import inspect
from workers.tensorrt.cuda import Cuda
from workers.tensorrt.failure import build_failure
from workers.tensorrt.logger import complaints, is_noise, plain
from workers.tensorrt.profiles import default_range, resolve
from workers.tensorrt.progress import Phases
from workers.tensorrt.signature import check_feeds, fitting_profile

NOISE = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/common/dispatch/checkMacros.cpp:250 "
    "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)
TOP_K = (
    "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (ITopKLayer big: big: K exceeds the maximum value allowed "
    "(3840). In processCheck at /_src/optimizer/shapeof/graphShapeAnalyzer.cpp:1066 In analyzeShapes at "
    "/_src/optimizer/shapeof/graphShapeAnalyzer.cpp:2825)"
)
# in the form that `trtexec --exportLayerInfo` writes
LAYERS = {
    "Layers": [
        {
            "Name": "conv + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
            "Outputs": [],
            "TacticName": "sm80_xmma_fprop",
        },
        {
            "Name": "Reformatting CopyNode for Output",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [],
            "TacticValue": "0x0",
        },
    ]
}  # fmt: skip


class Heard:
    def __init__(self, *lines: tuple[str, str]):
        self.lines = list(lines)


def test_noise_and_places_are_left_out() -> None:
    heard = Heard(("ERROR", NOISE), ("WARNING", "beware"), ("ERROR", TOP_K), ("ERROR", TOP_K))
    assert is_noise(NOISE)
    assert complaints(heard) == ["ITopKLayer big: big: K exceeds the maximum value allowed (3840)."]
    assert plain("(foreignNode) Converting scales.") == "(foreignNode) Converting scales."


def test_an_error_with_another_number_is_no_noise() -> None:
    assert not is_noise(NOISE.replace("cudaError 35", "cudaError 700").replace("driver version", "address"))


@pytest.mark.parametrize(
    ("text", "kind", "param"),
    [
        ("Tactic Selection: no tactics to implement the operation within workspace limit.", InvalidParams, "workspace_mib"),
        ("Cannot compile for target(s) sm75, because the model contains HW-specific datatypes: b16.", InvalidParams, "compute_capabilities"),
        ("Unable to load library: libnvinfer_lean.so.1", Unavailable, "version_compatible"),
        ("Requested amount of GPU memory (9 bytes) could not be allocated: out of memory", OutOfMemory, None),
        ("something new", InvalidModel, None),
    ],
    ids=["workspace", "target", "lean", "memory", "other"],
)  # fmt: skip
def test_causes_that_are_known_get_their_own_error(text: str, kind: type, param: str | None) -> None:
    error = build_failure([text], [], "tensorrt")
    assert type(error) is kind
    assert error.param == param


def test_of_several_complaints_the_one_that_names_a_node_is_the_cause() -> None:
    error = build_failure(["first", plain(TOP_K), "later"], ["big", "other"], "tensorrt")
    assert error.node == "big"
    assert build_failure([], [], "tensorrt").detail.endswith("it gave no reason")


def test_ranges_where_no_profile_says() -> None:
    params = TensorRtRtxParams(max_batch=8, max_length=64)
    assert default_range([None, 3, None], params) == ((1, 3, 1), (1, 3, 64), (8, 3, 64))
    free, fixed = {"name": "a", "shape": [None, 4]}, {"name": "b", "shape": [2]}
    assert resolve(params, [free, fixed]) == [{"a": ((1, 4), (1, 4), (8, 4))}]
    assert resolve(params, [fixed]) == []


def test_a_profile_that_leaves_an_input_out_takes_its_default() -> None:
    shape = {"min": (2, 4), "opt": (2, 4), "max": (2, 4)}
    params = TensorRtParams.model_validate({"profiles": [{"inputs": {"a": shape}}], "max_batch": 5})
    inputs = [{"name": "a", "shape": [None, 4]}, {"name": "b", "shape": [None]}]
    assert resolve(params, inputs) == [{"a": ((2, 4),) * 3, "b": ((1,), (1,), (5,))}]


def test_of_profiles_that_fit_the_smallest_is_taken() -> None:
    profiles = [{"x": ((1, 4), (64, 4))}, {"x": ((1, 4), (8, 4))}]
    assert fitting_profile(profiles, {"x": (4, 4)}) == 1
    assert fitting_profile(profiles, {"x": (9, 4)}) == 0
    with pytest.raises(SignatureMismatch, match="dimension 0 of 'x' is 65, its profile has 1 to 64"):
        fitting_profile(profiles, {"x": (65, 4)})


@pytest.mark.parametrize(
    "feeds",
    [{}, {"y": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 4))}, {"x": np.zeros((1, 5), np.float32)}],
    ids=["none", "name", "type", "shape"],
)
def test_feeds_that_do_not_fit_are_named(feeds: dict[str, np.ndarray]) -> None:
    inputs = [{"name": "x", "dtype": "float32", "shape": [None, 4]}]
    check_feeds(inputs, {"x": np.zeros((3, 4), np.float32)})
    with pytest.raises(SignatureMismatch):
        check_feeds(inputs, feeds)


def test_a_layer_report_is_counted() -> None:
    told = inspect.report(LAYERS)
    assert told["by_precision"] == {"int8": 1, "fp16": 1}
    assert told["reformats"] == 1
    assert told["listed"][0]["tactic"] == "sm80_xmma_fprop"
    assert inspect.sentences(told)[0] == "The engine has 2 layers after fusion: 1 in fp16, 1 in int8."
    assert inspect.report({"Layers": ["a name"]})["by_type"] == {"unknown": 1}
    assert inspect.sentences({}) == []


def test_the_outermost_phase_counts() -> None:
    said: list[tuple[int, int, str]] = []
    phases = Phases(lambda *how_far: said.append(how_far))
    phases.start("build", None, 2)
    phases.start("inner", "build", 9)
    phases.step("inner", 0)
    phases.step("build", 0)
    phases.finish("inner")
    phases.finish("build")
    assert said == [(0, 2, "build"), (0, 2, "inner"), (1, 2, "build"), (2, 2, "build")]


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_driver_there_is_no_gpu() -> None:
    with pytest.raises(Unavailable, match="driver"):
        Cuda()


@pytest.mark.skipif(not gpus(), reason="there is no NVIDIA GPU")
def test_memory_goes_there_and_back() -> None:
    cuda = Cuda()
    values = np.arange(1024, dtype=np.float32)
    back = np.zeros_like(values)
    address = cuda.allocate(values.nbytes)
    cuda.to_device(address, values.ctypes.data, values.nbytes)
    cuda.to_host(back.ctypes.data, address, back.nbytes)
    cuda.wait()
    assert np.array_equal(values, back)
    first, last = cuda.event(), cuda.event()
    cuda.mark(first)
    with cuda.recording() as recording:
        cuda.to_device(address, values.ctypes.data, values.nbytes)
    cuda.launch(recording.graph)
    cuda.mark(last)
    cuda.wait()
    assert cuda.between_ms(first, last) >= 0
    assert cuda.capability() == gpus()[0]["compute_capability"]
    cuda.forget(recording.graph)
    cuda.free(address)
