"""How many nodes a training asks for, and what it does with those that it gets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.catalog.pass_params.finetune import FinetuneParams
from app.errors import InvalidParams
from workers.context import PassContext
from workers.nodes.seat import Seat
from workers.training.launch import take_seat
from workers.training.task import TrainingJob


class Given:
    """Gives the number of nodes that comes at this place in what was asked for."""

    def __init__(self, place: int = 0):
        self.asked: list[int] = []
        self._place = place

    def gather(self, counts: Sequence[int]) -> Seat:
        self.asked = list(counts)
        return Seat(0, counts[self._place], Path("/nowhere"))

    def dismiss(self) -> None:
        """Nobody trains."""


def seat_of(nodes: Given | None, *, resumed: bool = False, **params: Any) -> tuple[Seat | None, list[str]]:
    given = FinetuneParams.model_validate({"batch_size": 24, **params})
    job = TrainingJob(
        task="finetune", program=Path("model.pt2"), params={}, seed=0, device="cpu", train={}, out=Path("out"),
        checkpoint=Path("kept") if resumed else None,
    )  # fmt: skip
    ctx = PassContext(out=Path("out"), nodes=nodes)
    return take_seat(job, ctx, given), ctx.warnings


def test_one_node_asks_nobody() -> None:
    assert seat_of(None) == (None, [])


@pytest.mark.parametrize(
    ("on_lost", "resumed", "asked"),
    [("replace", True, [4]), ("shrink", False, [4]), ("shrink", True, [4, 3, 2, 1])],
    ids=["replaced", "the first time all", "fewer from a checkpoint on"],
)
def test_how_many(on_lost: str, resumed: bool, asked: list[int]) -> None:
    nodes = Given()
    seat, warnings = seat_of(nodes, resumed=resumed, distributed={"nodes": 4, "on_lost": on_lost})
    assert (nodes.asked, seat, warnings) == (asked, Seat(0, 4, Path("/nowhere")), [])


def test_only_as_many_as_share_out_a_batch() -> None:
    nodes = Given(place=1)
    distributed = {"nodes": 6, "processes": 2, "on_lost": "shrink"}
    seat, warnings = seat_of(nodes, resumed=True, accumulate=2, distributed=distributed)
    assert nodes.asked == [6, 3, 2, 1]
    assert seat == Seat(0, 3, Path("/nowhere"))
    assert "6 nodes were asked for" in warnings[0]
    assert "3 trained" in warnings[0]


def test_alone_in_the_end() -> None:
    seat, warnings = seat_of(Given(place=1), resumed=True, distributed={"nodes": 2, "on_lost": "shrink"})
    assert seat is None
    assert "1 trained" in warnings[0]


@pytest.mark.parametrize(
    ("nodes", "params", "param"),
    [
        (Given(), {"distributed": {"nodes": 5}}, "batch_size"),
        (None, {"distributed": {"nodes": 2}}, "distributed.nodes"),
    ],
    ids=["a batch that cannot be shared out", "outside of a job"],
)
def test_what_is_refused(nodes: Given | None, params: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        seat_of(nodes, **params)
    assert caught.value.param == param
    assert caught.value.hint


def test_processes_of_several_nodes_are_a_number() -> None:
    with pytest.raises(ValueError, match="say how many in `processes`"):
        FinetuneParams.model_validate({"distributed": {"nodes": 2, "processes": "auto"}})
