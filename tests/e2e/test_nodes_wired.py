"""Three nodes, hosts with lines that can be cut: they train over the network, and share a database, a broker and a bucket."""

from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from tests.e2e.nodes import Fleet, child_of, fleet_over_network, until
from tests.e2e.wires import Host, missing, wired

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[str, list[Host]]]:
    with wired(3) as found:
        yield found


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, hosts: tuple[str, list[Host]]) -> Iterator[Fleet]:
    """A worker on each host."""
    address, others = hosts
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_over_network(folder, address, others, CHECKPOINT_SECONDS="1", GATHER_SECONDS="30") as made:
        yield made


def test_three_nodes_leave_what_one_leaves(workers: Fleet) -> None:
    alone = workers.succeeded(workers.submit(1, epochs=1, batch=48))
    for strategy in ("ddp", "fsdp"):
        job = workers.succeeded(workers.submit(3, epochs=1, batch=48, strategy=strategy))
        assert "in 3 processes" in workers.told(job)
        expected, found = workers.weights(alone), workers.weights(job)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-2, atol=1e-4)


def test_a_line_that_is_cut_and_healed(workers: Fleet, hosts: tuple[str, list[Host]]) -> None:
    _, (host, *_) = hosts
    job = workers.submit(3, epochs=3, batch=48)
    workers.until_it_trains(job, 10)
    host.cut()
    try:
        until(lambda: _over(workers, job, 1))
    finally:
        host.heal()
    assert "resumed after step" in workers.told(workers.succeeded(job))


def test_the_worker_that_has_the_job_is_killed(workers: Fleet) -> None:
    job = workers.submit(2, epochs=3)
    workers.until_it_trains(job, 10)
    child = until(lambda: child_of(f"{job}-1"))
    worker = psutil.Process(child.ppid())
    worker.kill()
    until(lambda: _over(workers, job, 1))
    assert "resumed after step" in workers.told(workers.succeeded(job))


def _over(workers: Fleet, job: str, attempt: int) -> bool:
    """Whether an attempt has ended."""
    now = workers.client.show("jobs", job)
    assert not now["finished"], now["problem"]
    return bool(now["attempt"] > attempt or now["status"] != "running")
