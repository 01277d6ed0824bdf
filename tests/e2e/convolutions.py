"""Small networks of convolutions that profiles are made of, and what `burnish compare` says of two of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from app.embedded import Embedded
from tests.e2e.service import Service, burnish

CHANNELS, SIZE, LAYERS = 64, 28, 4


def network(path: Path, kernels: list[int], loose: Sequence[int] = ()) -> Path:
    """Convolutions of these kernel sizes on [1, 64, 28, 28], a ReLU behind each. Of the `loose` ones the weights hang on an input,
    so that no runtime can lay them out beforehand."""
    chance = np.random.default_rng(0)
    names = ["x", *(f"v{number}" for number in range(len(kernels) - 1)), "y"]
    nodes, weights = [], []
    for number, kernel in enumerate(kernels):
        weight = chance.standard_normal((CHANNELS, CHANNELS, kernel, kernel)).astype(np.float32) / 25
        held = f"w{number}"
        weights.append(numpy_helper.from_array(weight, held))
        if number in loose:
            nodes.append(helper.make_node("Mul", [held, "scale"], [f"s{number}"], name=f"scale{number}"))
            held = f"s{number}"
        nodes += [
            helper.make_node(
                "Conv",
                [names[number], held],
                [f"c{number}"],
                name=f"conv{number}",
                pads=[kernel // 2] * 4,
            ),
            helper.make_node("Relu", [f"c{number}"], [names[number + 1]], name=f"relu{number}"),
        ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])
        for name in ("x", "y")
    )
    scale = [helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])] if loose else []
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x, *scale], [y], weights),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    onnx.save(model, str(path))
    return path


def run(service: Service, subject: str, **fields: Any) -> dict[str, Any]:
    body = {"kind": "profile", "subject": subject, "profile": {"seconds": 1.0}, **fields}
    job = service.client.wait(service.client.submit(body)["id"])
    assert job["status"] == "succeeded", job["problem"]
    return job


def explaining(
    embedded: Embedded, before: dict[str, Any], after: dict[str, Any], *, layers: bool = False
) -> list[dict[str, Any]]:
    """The changes that `burnish compare` says explain the difference."""
    options = ["--layers"] if layers else []
    done = burnish(embedded, "compare", before["id"], after["id"], *options, "--json")
    found = json.loads(done.stdout)["layers"]
    by_name = {change["name"]: change for change in found["changes"]}
    assert all(name in found["sentence"] for name in found["explained_by"])
    return [by_name[name] for name in found["explained_by"]]
