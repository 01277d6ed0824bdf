"""Every name that our code uses of the library is in the bindings of TensorRT 10 and 11, which are not installed here.

What they hold was read from their wheels by `scripts/tensorrt_names.py`. `rtx.py` alone may use what only TensorRT for RTX has.
`OBJECTS` says what the variables of our code hold.
"""

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorrt_rtx

ROOT = Path(__file__).resolve().parents[3]
FOLDER = Path(__file__).parent / "names"
SOURCES = [*sorted((ROOT / "workers/tensorrt").glob("*.py")), ROOT / "workers/bundle/run.py"]
ONLY_RTX = ("rtx.py",)
OBJECTS: dict[str, dict[str, str]] = {  # by file: what variables hold
    "build.py": {
        "parsed.builder": "Builder", "builder": "Builder", "config": "IBuilderConfig", "profile": "IOptimizationProfile",
    },
    "parse.py": {"builder": "Builder", "parser": "OnnxParser", "error": "ParserError"},
    "profiles.py": {"network": "INetworkDefinition", "tensor": "ITensor"},
    "signature.py": {"network": "INetworkDefinition", "one": "ITensor"},
    "loaded.py": {
        "self._runtime": "Runtime", "engine": "ICudaEngine", "self._engine": "ICudaEngine", "self._context": "IExecutionContext",
        "refitter": "Refitter", "parser": "OnnxParserRefitter", "modes": "TensorIOMode",
    },
    "buffers.py": {"context": "IExecutionContext"},
    "inspect.py": {"engine": "ICudaEngine", "inspector": "EngineInspector"},
    "timings.py": {"config": "IBuilderConfig", "cache": "ITimingCache", "timings.cache": "ITimingCache"},
    "rtx.py": {
        "config": "IBuilderConfig", "engine": "ICudaEngine", "runtime_config": "IRuntimeConfig", "strategies": "CudaGraphStrategy",
        "kernels": "DynamicShapesKernelSpecializationStrategy",
    },
    "run.py": {"runtime": "Runtime", "plan": "ICudaEngine", "running": "IExecutionContext", "refitter": "Refitter"},
}  # fmt: skip
MODULES = ("trt", "library.trt", "self._library.trt", "self.trt")
Names = dict[str, list[str] | None]


def stored(version: str) -> Names:
    return dict(json.loads((FOLDER / f"tensorrt-{version}.json").read_text())["names"])


def installed() -> Names:
    names = [name for name in dir(tensorrt_rtx) if not name.startswith("_")]
    things = {name: getattr(tensorrt_rtx, name) for name in names}
    return {
        name: [one for one in dir(thing) if not one.startswith("_")] if inspect.isclass(thing) else None
        for name, thing in things.items()
    }


def used(path: Path) -> Iterator[tuple[str, str | None]]:
    """(a name of the module, an attribute of it or of an object of that class), as `trt.A.b` or `config.b` in the code."""
    objects = OBJECTS.get(path.name, {})
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        held = ast.unparse(node.value)
        if held in objects:
            yield objects[held], node.attr
        elif held in MODULES:
            yield node.attr, None
        elif isinstance(node.value, ast.Attribute) and ast.unparse(node.value.value) in MODULES:
            yield node.value.attr, node.attr


def missing(path: Path, names: Names) -> list[str]:
    found = []
    for name, attribute in used(path):
        if name not in names:
            found.append(name)
        elif attribute is not None and attribute not in (names[name] or ()):
            found.append(f"{name}.{attribute}")
    return sorted(set(found))


@pytest.mark.parametrize("version", ["10", "11", "rtx"])
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_name_is_there(path: Path, version: str) -> None:
    if path.name in ONLY_RTX and version != "rtx":
        assert missing(path, stored(version)), "nothing here needs TensorRT for RTX: it belongs elsewhere"
    else:
        assert missing(path, installed() if version == "rtx" else stored(version)) == []


def test_names_are_looked_at() -> None:
    seen = {name for path in SOURCES for name in used(path)}
    wanted = {
        ("IBuilderConfig", "add_optimization_profile"),
        ("BuilderFlag", "STRIP_PLAN"),
        ("OnnxParser", "supports_model_v2"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("IExecutionContext", "execute_async_v3"),
        ("Refitter", "refit_cuda_engine"),
        ("Builder", "build_serialized_network"),
        ("ITensor", "is_shape_tensor"),
        ("ITimingCache", "combine"),
    }
    assert wanted <= seen


def test_a_name_that_is_gone_would_be_found(tmp_path: Path) -> None:
    old = tmp_path / "parse.py"
    old.write_text("parser.supports_model(b'')\ntrt.BuilderFlag.INT8\ntrt.IInt8Calibrator\n")
    assert missing(old, stored("11")) == ["BuilderFlag.INT8", "IInt8Calibrator", "OnnxParser.supports_model"]
    assert "BuilderFlag.INT8" not in missing(old, stored("10"))


def test_the_versions_are_those_that_were_meant() -> None:
    for version in ("10", "11"):
        told = json.loads((FOLDER / f"tensorrt-{version}.json").read_text())
        assert told["version"].startswith(f"{version}.")
        assert told["wheel"].startswith("tensorrt_cu")
