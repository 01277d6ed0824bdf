"""The benchmark of presets beside what people run today, on a network so small that it only shows that everything works."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import contenders, runtimes, turns, untrained, written
from benchmarks.contenders import COMPILED, CONTROL, EAGER, PLAIN, TARGETS
from benchmarks.runtimes import Session
from benchmarks.turns import Contender
from benchmarks.untrained import Untrained
from workers.measure.launched import EngineUnderTest
from workers.measure.timed import Timed
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.torch.program import TorchModel, export, save_program

NS = 1e6


def written_program(folder: Path) -> ModelHandle:
    """Two convolutions and a linear layer as a `.pt2`: faster to export and to compile than any network of the zoo's."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 3 * 3, 10),
    ).eval()
    inputs = ({"name": "input", "dtype": "float32", "shape": ["batch", 3, 16, 16]},)
    outputs = ({"name": "output", "dtype": "float32", "shape": ["batch", 10]},)
    save_program(export(TorchModel(network, inputs, outputs)), inputs, outputs, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


TINY = Untrained("tiny", 2.0, written_program, untrained.images("", "", 16, 0).data)


def contender(name: str) -> Contender:
    return Contender(name, EngineUnderTest("none", Path(), "none", {}), ("simplify",), 40.0)


def timed(milliseconds: float) -> Timed:
    """Three launches of two rounds, a thousandth apart."""
    blocks = [
        [[round(milliseconds * NS * (1 + (launch + block) / 1000))] * 3 for block in range(4)]
        for launch in range(3)
    ]
    return Timed(blocks=blocks)


def session(times: dict[str, float], goal: float = 4.0) -> Session:
    found = runtimes.figures([contender(name) for name in times], [timed(one) for one in times.values()])
    return Session(untrained.images("a net", "resnet18", 224, goal), 1, found)


TIMES = {
    EAGER: 40.0, COMPILED: 38.0, PLAIN: 30.0, TARGETS[0]: 9.0, TARGETS[1]: 8.0, TARGETS[2]: 50.0, CONTROL: 40.0,
}  # fmt: skip


def test_ratios_are_to_the_first_and_verdicts_by_the_last():
    found = session(TIMES)
    assert found.of(TARGETS[1]).speedup.value == pytest.approx(5.0)
    assert found.best is found.of(TARGETS[1])
    assert [found.of(name).verdict for name in (*TARGETS, CONTROL)] == [
        "faster",
        "faster",
        "slower",
        "no difference",
    ]
    assert found.reached
    assert not session(TIMES, goal=5.1).reached
    assert {one.verdict for one in session({**TIMES, CONTROL: 30.0}).measured} == {"unstable"}


def test_tables_name_what_was_best():
    found = [session(TIMES)]
    short = runtimes.short_table(found).splitlines()
    assert short[0].count("|") == short[2].count("|") == 9
    assert short[2].startswith("| a net | 1 | 40.1 | 1.05 [")
    assert "**5.00** [" in short[2]
    long = runtimes.long_table(found)
    assert "Goal 4×, reached: `openvino-cpu` 5.00 [" in long
    assert "| `torch-inductor-cpu` | `simplify` |" in long
    assert "slower" in long
    assert "openvino 20" in runtimes.conditions()


def test_a_block_has_a_run_and_a_launch_a_round():
    slow = turns.plan_blocks([3e9, 1e6], launches=5, seconds=1)
    assert (slow.runs, slow.rounds) == ([1, 100], 1)
    # each engine 0.1 s of runs and 5 ms before, four blocks a round
    assert turns.plan_blocks([1e6, 1e6], launches=2, seconds=4.3).rounds == 5


def test_figures_are_written_between_their_marks(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- speed -->\nold\nold\n<!-- /speed -->\nafter\n")
    for text in ("new", "newer"):
        written.write(page, "speed", text)
        assert page.read_text() == f"before\n<!-- speed -->\n{text}\n<!-- /speed -->\nafter\n"
    with pytest.raises(ValueError, match="memory"):
        written.write(page, "memory", "new")


def test_the_pages_have_a_place_for_the_figures():
    for page in (runtimes.SHORT, runtimes.LONG):
        text = page.read_text(encoding="utf-8")
        assert text.count(f"<!-- {runtimes.MARK} -->") == text.count(f"<!-- /{runtimes.MARK} -->") == 1


@pytest.mark.slow
def test_a_network_is_timed_under_torch_compile_and_by_a_preset(tmp_path: Path):
    prepared = contenders.Prepared(TINY, tmp_path, targets=TARGETS[:1])
    built = list(prepared.contenders(1))
    assert [one.name for one in built] == [EAGER, COMPILED, PLAIN, TARGETS[0], CONTROL]
    assert built[3].passes == ("simplify", "quantize-static")
    assert built[2].sqnr_db > 100 > built[3].sqnr_db > 20

    seen = turns.take_turns(built, prepared.feeds, tmp_path, launches=1, seconds=0.1)
    assert [len(one.blocks) for one in seen] == [1] * len(built)
    assert all(one.blocks[0][0] and np.all(one.samples_ms > 0) for one in seen)
    assert any((built[1].engine.root / "compiled").iterdir()), "nothing was compiled"
    found = Session(TINY, 1, runtimes.figures(built, seen))
    assert found.best is found.of(TARGETS[0])
    assert found.of(COMPILED).p50_ms.value != found.of(EAGER).p50_ms.value
    assert "`quantize-static`" in runtimes.long_table([found])


BERT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "passes"),
    [
        (
            untrained.text("tiny BERT", BERT, 16, 1.0),
            ["quantize-dynamic", "quantize-openvino", "quantize-torch"],
        ),
        (
            untrained.images("tiny resnet", "resnet20_cifar10", 32, 1.0),
            ["quantize-static", "quantize-openvino", "quantize-torch"],
        ),
    ],
    ids=["text", "images"],
)
def test_every_engine_of_a_network_is_timed(network: Untrained, passes: list[str]):
    (found,) = runtimes.timed([network], [1], launches=2, seconds=1.0)
    assert [one.contender.name for one in found.measured] == [EAGER, COMPILED, PLAIN, *TARGETS, CONTROL]
    assert [found.of(name).contender.passes[-1] for name in TARGETS] == passes
    assert runtimes.short_table([found]).count("\n") == 2
