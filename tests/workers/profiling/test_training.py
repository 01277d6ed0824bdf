"""The steps of trainings, profiled as passes start them."""

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch

from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe
from app.profiles.schemas import Phase
from tests.workers.profiling.torch_traces import events_of, path_of, stacks_of, tensorboard_names
from tests.workers.training import networks
from tests.workers.training.arrays import train_arrays
from tests.workers.training.distilling import handle, opened
from tests.workers.training.networks import Labelled
from workers.context import PassContext, Samples
from workers.profiling.recorded import Plan, Recorded
from workers.profiling.training import RECORDED, profile_training
from workers.profiling.training_rows import LOADER, PHASES
from workers.profiling.turns import typical
from workers.surgery.program_structure import of_program
from workers.torch.program import load_program
from workers.training.phases import UNMEASURED
from workers.training.weights import state_of

SHORT = Plan(seconds=0.5, warm_up_seconds=0.0, least_runs=6, most_runs=20)
ALONE = {"loader": {"mode": "fixed", "workers": 0, "cache": "none"}}
SLOW_SECONDS = 0.002  # that a sample takes of the slow dataset


@dataclass(frozen=True)
class Profiled:
    """Phases by name, what else was recorded, and the model's file."""

    phases: dict[str, Phase]
    step_ms: list[float]
    recorded: Recorded
    model: Path


def profiled(
    name: str, network: torch.nn.Module, samples: Samples, data: Labelled, folder: Path, **params: Any
) -> Profiled:
    for inner in ("out", "work", "seen"):
        (folder / inner).mkdir(parents=True)
    model = handle(networks.write_program(network, data, folder / "model/model.pt2"))
    ctx = PassContext(
        out=folder / "out",
        work=folder / "work",
        samples={"train": samples, "validation": samples},
        teacher=model,
    )
    given = PASSES[name].params.model_validate({"batch_size": 32, "metric": "top1", **ALONE, **params})
    threads = torch.get_num_threads()
    found = profile_training(name, model, given, ctx, SHORT, folder / "seen")
    assert torch.get_num_threads() == threads
    return Profiled({phase.name: phase for phase in found.phases}, found.step_ms, found.recorded, model.path)


CASES = {
    "finetune-cnn": ("finetune", networks.Small, networks.digits),
    "finetune-reader": ("finetune", networks.Reader, networks.read_digits),
    "distill": ("distill", networks.Mlp, networks.digits),
    "qat": ("qat", networks.Small, networks.digits),
}


@pytest.fixture(scope="module", params=sorted(CASES))
def one(request, tmp_path_factory) -> tuple[str, Profiled]:
    name, make, data = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    train = data().train.first(256)
    return request.param, profiled(name, networks.untrained(make), opened(train, folder), train, folder)


def test_phases_are_the_step(one):
    phases, steps = one[1].phases, one[1].step_ms

    step = fmean(steps[number] for number in typical(steps))
    assert list(phases) == [*PHASES, "other"]
    assert sum(phase.mean_ms for phase in phases.values()) == pytest.approx(step, rel=0.01)
    assert sum(phase.share for phase in phases.values()) == pytest.approx(1)
    assert all(phases[name].mean_ms > 0 for name in PHASES)
    assert SHORT.least_runs <= len(steps) <= SHORT.most_runs
    assert len(one[1].recorded.run_ms) == RECORDED


def test_rows_are_the_phases(one):
    phases, recorded = one[1].phases, one[1].recorded

    assert sum(row.mean_ms for row in recorded.rows) == pytest.approx(
        sum(phase.mean_ms for phase in phases.values())
    )
    back = [row for row in recorded.rows if row.name.endswith("(backward)")]
    besides = [row for row in recorded.rows if row.name == "backward, besides layers"]
    assert sum(row.mean_ms for row in [*back, *besides]) == pytest.approx(phases["backward"].mean_ms)
    assert sum(row.mean_ms for row in back) > 0.5 * phases["backward"].mean_ms
    assert {row.name for row in recorded.rows if row.name in PHASES} == {"loader", "loss", "optimizer"}


def test_every_layer_has_a_row_forward_and_one_backward(one):
    name, found = one
    if name == "qat":  # it trains a network of ONNX nodes
        listed = {"conv", "conv_1", "conv_2", "gemm"}
    else:
        structure = of_program(load_program(found.model))["layers"]
        listed = {layer["name"] for layer in structure if layer["kind"] != "weight"}

    named = Counter(source for row in found.recorded.rows for source in row.sources)
    assert listed
    assert {layer: named[layer] for layer in listed} == dict.fromkeys(listed, 2)
    forward = [row for row in found.recorded.rows if set(row.sources) & listed and "backward" not in row.name]
    assert all(row.calls == 1 for row in forward)
    assert all(row.output is not None and row.output[0] == 32 for row in forward)


def test_traces_are_what_viewers_open(one):
    recorded = one[1].recorded

    text = path_of(recorded, "chrome").read_text(encoding="utf-8")
    names = {event["name"] for event in events_of(text)}
    assert set(PHASES) <= names
    assert {row.sources[0] for row in recorded.rows if row.sources} <= names
    assert {*PHASES, "ProfilerStep#2"} <= tensorboard_names(path_of(recorded, "tensorboard"))
    stacks = stacks_of(path_of(recorded, "flamegraph"))
    assert sum(stacks.values()) == pytest.approx(sum(row.mean_ms for row in recorded.rows))
    assert {stack[0] for stack in stacks} <= {*PHASES, "other"}
    assert recorded.peak_memory_bytes


class Slow:
    """Samples that take their time."""

    def __init__(self, samples: Samples):
        self._samples = samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def sample(self, index: int) -> Any:
        time.sleep(SLOW_SECONDS)
        return self._samples.sample(index)  # type: ignore[attr-defined]


def test_a_slow_dataset_shows_as_waiting(tmp_path, monkeypatch):
    from workers.training import batches

    data = networks.digits().train.first(256)
    samples = opened(data, tmp_path)
    network = networks.untrained(networks.Mlp)
    fast = profiled("finetune", network, samples, data, tmp_path / "fast")
    open_files = batches.reopened
    monkeypatch.setattr(batches, "reopened", lambda told: Slow(open_files(told)))
    slow = profiled("finetune", network, samples, data, tmp_path / "slow")

    assert slow.phases[LOADER].mean_ms >= 32 * SLOW_SECONDS * 1000
    assert slow.phases[LOADER].share > max(0.5, 2 * fast.phases[LOADER].share)
    assert any("of the time waited for samples" in note for note in slow.recorded.notes)
    [row] = [row for row in slow.recorded.rows if row.name == LOADER]
    assert row.mean_ms == pytest.approx(slow.phases[LOADER].mean_ms)


def test_accumulated_parts_count_once_a_step_each(tmp_path):
    data = networks.digits().train.first(256)
    found = profiled(
        "finetune",
        networks.untrained(networks.Mlp),
        opened(data, tmp_path),
        data,
        tmp_path / "run",
        accumulate=4,
    )

    rows = {row.name: row for row in found.recorded.rows}
    assert rows["hidden"].calls == rows["head"].calls == 4
    assert rows["hidden"].output == (8, 32)


def test_a_pass_that_does_not_train_is_refused(tmp_path):
    data = networks.digits().train.first(64)
    model = handle(networks.write_program(networks.untrained(networks.Mlp), data, tmp_path / "m/model.pt2"))
    (tmp_path / "out").mkdir()
    name = "prune-weights"
    with pytest.raises(IncompatibleRecipe, match="does not train"):
        profile_training(
            name, model, PASSES[name].params(), PassContext(out=tmp_path / "out"), SHORT, tmp_path
        )


def test_unmeasured_training_ends_with_the_same_weights(tmp_path):
    """Whoever listens to phases changes nothing; by default it is nobody."""

    class Listener:
        def __init__(self) -> None:
            self.heard: list[str] = []

        def begin(self, task: Any) -> None:
            self.heard.append("begin")

        def of(self, name: Any) -> Any:
            self.heard.append(name)
            return UNMEASURED.of(name)

        def reading(self, batches: Any, number: int, first: int) -> Any:
            for batch in batches.epoch(number, first):
                self.heard.append("step")
                yield batch

    data = networks.digits().train.first(128)
    arrays = (data.inputs["images"], data.labels)
    model = networks.write_program(networks.untrained(networks.Mlp), data, tmp_path / "m/model.pt2")
    ended = []
    listener = Listener()
    for phases in (UNMEASURED, listener):
        loop, task = train_arrays(
            model, tmp_path / str(len(ended)), data=arrays, epochs=1, batch_size=64, phases=phases
        )
        loop.run()
        ended.append({name: tensor.detach().clone() for name, tensor in state_of(task.network).items()})

    assert all(torch.equal(tensor, ended[1][name]) for name, tensor in ended[0].items())
    assert listener.heard == ["begin", *2 * ["step", "forward", "loss", "backward", "optimizer", "optimizer"]]
    assert np.isfinite([float(tensor.sum()) for tensor in ended[0].values()]).all()
