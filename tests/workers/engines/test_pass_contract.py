"""What every pass of the catalog promises, held on trained networks."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from app.catalog.passes import ANY_PRECISION, PASSES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan
from app.catalog.spec import ModelFacts
from app.errors import IncompatibleRecipe
from tests.workers.engines.networks import Network, answers, signature
from workers import passes
from workers.onnx_files import signature_of, tree_digest

SNR_DB = {
    "simplify": 100,
    "set-shapes": 100,
    "distill": 20,
    "equalize": 80,
    "finetune": 20,
    "smooth": 80,
    "fuse-transformer": 100,
    "to-bf16": 35,
    "to-fp16": 50,
    "cast-torch": 45,
    "depthwise-separable": 15,
    "low-rank": 10,
    "prune-channels": 8,
    "prune-weights": 15,
    "qat": 20,
    "quantize-dynamic": 25,
    "quantize-fp8": 15,
    "quantize-openvino": 20,
    "quantize-static": 20,
    "quantize-torch": 20,
    "quantize-weights": 15,
    "shrink-depth": 5,
}
LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}
# of passes that do nothing without being told what, and of those that train: a little, of networks that know already
PARAMS: dict[str, dict[str, Any]] = {
    "set-shapes": {"inputs": {"images": [None, 1, 8, 8]}},
    "distill": {"epochs": 1, "batch_size": 256, "learning_rate": 1e-4, "loader": LOADER},
    "finetune": {"epochs": 1, "batch_size": 256, "learning_rate": 1e-4, "loader": LOADER},
    "prune-channels": {"importance": "taylor", "ratio": 0.05, "round_to": 1},
    "depthwise-separable": {"multiplier": 6},
    "prune-weights": {"ratio": 0.2},
    "shrink-depth": {"count": 1},
    "qat": {"epochs": 1, "batch_size": 256, "learning_rate": 1e-4, "loader": LOADER},
}
MAX_DROP = 0.03
ROOT = Path(__file__).parents[3]
NAMES = sorted(PASSES)
NETWORKS = ["cnn", "mlp", "deep"]
# those that a pass finds nothing to do in, which it refuses, or that can lose none of the little that they have
TRIED_ON = {"depthwise-separable": ["cnn"], "shrink-depth": ["deep"]}
CASES = [(name, network) for name in NAMES for network in TRIED_ON.get(name, ["cnn", "mlp"])]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    """Each network in turn."""
    return request.getfixturevalue(request.param)


def top1(model, network: Network) -> float:
    logits = answers(model, {"images": network.images})["logits"]
    return float(np.mean(np.argmax(logits, axis=1) == network.labels))


def test_every_spec_is_implemented_and_nothing_else():
    passes.registry.check(set(PASSES))


def test_every_spec_has_bounds_here():
    assert set(SNR_DB) == set(PASSES)


def test_the_networks_learned(network: Network):
    assert top1(network.model, network) > 0.9


@pytest.mark.parametrize(("name", "network"), CASES, indirect=["network"])
def test_keeps_the_signature_and_the_answers(name: str, network: Network, apply: Callable, signal: Callable):
    subject = network.taken(PASSES[name].formats)
    model, context = apply(name, subject, network.train, **PARAMS.get(name, {}))

    assert signature(model) == signature(network.model)
    if model.format == "onnx":  # whose free dimensions have names
        assert signature_of(model.load_onnx()) == signature_of(network.model.load_onnx())
    assert model.format == (PASSES[name].leaves or subject.format)
    for count in (1, len(network.images)):
        before = answers(network.model, {"images": network.images[:count]})["logits"]
        after = answers(model, {"images": network.images[:count]})["logits"]
        assert after.shape == before.shape
    assert signal(before, after) > SNR_DB[name]
    assert top1(model, network) >= top1(network.model, network) - MAX_DROP
    json.dumps(context.facts, allow_nan=False)
    assert context.facts


@pytest.mark.parametrize("name", NAMES)
def test_is_deterministic_and_names_its_tree(name: str, cnn: Network, apply: Callable):
    subject = cnn.taken(PASSES[name].formats)
    first, second = (apply(name, subject, cnn.train, **PARAMS.get(name, {}))[0] for _ in range(2))

    assert first.digest == second.digest == tree_digest(first.root) == tree_digest(second.root)


IN_A_PROCESS = {
    name: {**given, "batch_size": 8} if "batch_size" in given else given for name, given in PARAMS.items()
}
PROCESS = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
from app.catalog.passes import PASSES
from workers import passes
from workers.context import PassContext
from workers.model_handle import ModelHandle

from tests.workers.engines.networks import ArraySamples
from workers.training import launch

launch.usable_processors = lambda: 1  # threads of small layers wait for one another
random = np.random.default_rng(0)
images = ArraySamples({"images": random.random((40, 1, 8, 8), dtype=np.float32)}, random.integers(0, 10, 40))
train = images.filed(Path(tempfile.mkdtemp(dir=sys.argv[1])) / "data")
digests = {}
for root, names in json.loads(sys.argv[3]).items():
    for name in names:
        spec = PASSES[name]
        samples = {"train": train} if "train" in spec.inputs else {"calibration": images}
        context = PassContext(out=Path(tempfile.mkdtemp(dir=sys.argv[1])), samples=samples)
        taken = "onnx" if "onnx" in spec.formats else "torch-export"
        folder, entry = ("onnx", "model.onnx") if taken == "onnx" else ("program", "model.pt2")
        model = ModelHandle(Path(root, folder), entry, taken, "")
        context.teacher = model if "teacher" in spec.inputs else None
        params = spec.params(**json.loads(sys.argv[2]).get(name, {}))
        digests[f"{root} {name}"] = passes.registry.get(name)(model, params, context).digest
print(json.dumps(digests))
"""


def test_two_processes_give_the_same_bytes(cnn: Network, mlp: Network, deep: Network, tmp_path: Path):
    """Python's hash seed, which differs between processes, orders sets: it must not reach the model."""
    networks = {"cnn": cnn, "mlp": mlp, "deep": deep}
    folders = {name: str(network.model.root.parent) for name, network in networks.items()}
    cases = [(name, network) for name, network in CASES if network != "mlp" or "onnx" in PASSES[name].formats]
    passes_of = {
        folder: [name for name, taken in cases if taken == network] for network, folder in folders.items()
    }
    digests = []
    for seed in ("1", "2"):
        program = [sys.executable, "-W", "ignore", "-c", PROCESS]
        command = [*program, str(tmp_path), json.dumps(IN_A_PROCESS), json.dumps(passes_of)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
        )
        digests.append(json.loads(done.stdout.splitlines()[-1]))

    assert digests[0] == digests[1]
    assert set(digests[0]) == {f"{folders[network]} {name}" for name, network in cases}


@pytest.mark.parametrize("name", NAMES)
def test_leaves_its_input_alone(name: str, cnn: Network, apply: Callable):
    subject = cnn.taken(PASSES[name].formats)
    apply(name, subject, cnn.train, **PARAMS.get(name, {}))

    assert tree_digest(subject.root) == subject.digest


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_for_the_checker(name: str, cnn: Network, apply: Callable):
    model, _ = apply(name, cnn.taken(PASSES[name].formats), cnn.train, **PARAMS.get(name, {}))

    if model.format == "onnx":
        onnx.checker.check_model(str(model.path))
    else:
        assert signature(model)["outputs"]


@pytest.mark.parametrize(
    ("name", "precision"), [(n, p) for n in NAMES for p in sorted(ANY_PRECISION - PASSES[n].consumes)]
)
def test_refuses_what_it_does_not_consume(name: str, precision: str):
    facts = ModelFacts(min(PASSES[name].formats), precision, {"Conv": 1}, 1000, (), ())
    needs = dict.fromkeys(PASSES[name].inputs, "dat_1")
    recipe = Recipe.model_validate({"passes": [{"pass": name, "inputs": needs}]})
    data = {"dat_1": DatasetFacts("dat_1", "0" * 64, 10, {}, None)}

    with pytest.raises(IncompatibleRecipe) as refusal:
        plan(recipe, facts, Target(runtime="onnxruntime-cpu"), data, None, None)
    assert name in refusal.value.detail
    assert precision in refusal.value.detail
    assert refusal.value.param == "recipe.passes[0].pass"


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str):
    spec = PASSES[name]

    assert "ource" in spec.documentation, "the docstring cites where the method comes from"
    assert inspect.getdoc(passes.registry.get(name))
    for field, described in spec.params.model_json_schema()["properties"].items():
        assert described.get("description", "").endswith("."), field
    with pytest.raises(ValidationError):
        spec.params.model_validate({"no_such_parameter": 1})
    assert spec.packages
