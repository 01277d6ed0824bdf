"""Jobs that train over several workers of one service, each with a sandbox and a network of its own."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.e2e.nodes import Fleet, child_of, fleet, until
from tests.workers.training.trainings import needs_horovod

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers that train together."""
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        fleet(
            tmp_path_factory.mktemp("fleet"),
            monkeypatch,
            CHECKPOINT_SECONDS="1",
            GATHER_SECONDS="20",
            GATHER_ATTEMPTS="2",
        ) as made,
    ):
        made.another()
        yield made


def apart(expected: dict[str, Any], found: dict[str, Any]) -> float:
    """How far weights are apart, of their length: sums over processes are in another order, and steps go on from there."""
    assert expected.keys() == found.keys()
    both = [(found[name].ravel(), value.ravel()) for name, value in expected.items()]
    one, other = (np.concatenate(side).astype(np.float64) for side in zip(*both, strict=True))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def test_two_nodes_leave_what_one_leaves_also_where_one_is_killed(workers: Fleet) -> None:
    alone = workers.succeeded(workers.submit(1, epochs=8))
    killed = workers.submit(2, epochs=8)

    workers.until_it_trains(killed, 60)
    helper = until(lambda: child_of(f"{killed}."))
    helper.kill()
    job = workers.succeeded(killed)
    assert job["attempt"] == 2
    assert re.search(r"in 2 processes; .*; resumed after step \d+\.", workers.told(job))
    assert apart(workers.weights(alone), workers.weights(job)) < 0.02
    assert "node 1: " in workers.client.logs(killed)


@needs_horovod
def test_two_nodes_by_horovod(workers: Fleet) -> None:
    alone = workers.succeeded(workers.submit(1, epochs=1))
    job = workers.succeeded(workers.submit(2, epochs=1, backend="horovod"))
    assert "in 2 processes" in workers.told(job)
    assert apart(workers.weights(alone), workers.weights(job)) < 0.02


def test_two_that_want_the_same_workers_do_not_wait_for_each_other(workers: Fleet) -> None:
    jobs = [workers.submit(2, epochs=epochs) for epochs in (1, 2)]
    for job in jobs:
        assert "in 2 processes" in workers.told(workers.succeeded(job))


def test_nodes_that_never_come_hold_up_nobody_for_long(workers: Fleet) -> None:
    waiting = workers.submit(3, batch=48)
    until(lambda: workers.client.show("jobs", waiting)["stage"] == "waiting")
    small = workers.submit(1, epochs=1)
    workers.succeeded(small)
    assert not workers.client.show("jobs", waiting)["finished"]
    job = workers.client.wait(waiting)
    assert (job["status"], job["problem"]["code"]) == ("failed", "no_worker")
    assert (
        "3 nodes were asked for, and 2 workers that train with others are online" in job["problem"]["detail"]
    )
    assert "BURNISH_TRAIN_ADDRESS" in job["problem"]["hint"]


def test_with_those_that_are_left_where_the_job_takes_them(workers: Fleet) -> None:
    job = workers.submit(2, epochs=8, on_lost="shrink")
    workers.until_it_trains(job, 60)
    workers.workers[0].kill()  # whichever place it has
    ended = workers.succeeded(job)
    assert ended["attempt"] == 2
    told = workers.told(ended)
    assert "resumed after step" in told
    assert "in 2 processes" not in told
    assert any("from the last checkpoint on, 1 trained" in one for one in ended["result"]["warnings"])
