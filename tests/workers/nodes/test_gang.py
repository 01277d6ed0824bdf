"""The places of a gang: who may take one, who waits, who is let go."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.config import Settings, get_settings
from app.db import transaction
from app.jobs import gang, lease
from app.jobs.fairness import next_in_line
from app.jobs.status import JobStatus
from app.jobs.tables import Consumption, Gang, GangSeat, Job
from tests.workers.conftest import add_job, add_model, problem_code, read_job, rows

QUEUE = "runtime.onnxruntime-cpu"
LEASE = 60.0
WORK = {"number": 0, "key": "a" * 64, "model": None, "device": "cpu"}


@pytest.fixture
def waiting(quick: Settings, tmp_path: Path) -> Callable[..., Job]:
    """Adds a queued job."""
    model = add_model(tmp_path)
    return lambda **values: add_job(model, **values)


def gather(job: Job, worker: str, wanted: int = 2) -> Job:
    """Claim a job and begin to gather for it."""
    with transaction() as session:
        claimed = lease.claim(session, job.id, worker, LEASE)
        assert claimed is not None
        session.flush()
        assert gang.open_gang(
            session, job.id, claimed.attempt, wanted=wanted, token="0" * 64, address="first:1", work=WORK, lease_seconds=LEASE
        )  # fmt: skip
        session.expunge(claimed)
    return claimed


def join(
    rung: Job, worker: str, address: str | None = "other:2", seconds: float = LEASE
) -> gang.Place | None:
    """Take a place; its relay listens at `address` from then on."""
    with transaction() as session:
        place = gang.join(session, rung.id, worker, seconds, lambda _: True)
        if place is not None and address is not None:
            assert gang.listen(session, place, address)
    return place


def standing(job: Job) -> gang.Standing | None:
    with transaction() as session:
        return gang.standing(session, job.id, job.attempt, LEASE)


def begin(job: Job, count: int) -> dict[int, str] | None:
    with transaction() as session:
        return gang.begin(session, job.id, job.attempt, count)


def test_all_are_there_before_any_begins(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a", wanted=3)
    assert standing(job) == gang.Standing(True, 1)
    first = join(job, "wrk_b")
    silent = join(job, "wrk_c", address=None)
    assert first is not None
    assert silent is not None
    assert standing(job) == gang.Standing(True, 2), "a place counts once its relay listens"
    assert begin(job, 3) == {}
    with transaction() as session:
        assert gang.together(session, first) is None
        gang.listen(session, silent, "third:3")
    assert begin(job, 3) == {0: "first:1", 1: "other:2", 2: "third:3"}
    with transaction() as session:
        found = gang.together(session, silent)
    assert found is not None
    assert found.node == 2
    assert join(job, "wrk_d") is None, "no place is left"


def test_a_worker_takes_one_place_and_none_of_its_own_job(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a", wanted=3)
    assert join(job, "wrk_a") is None
    assert join(job, "wrk_b") is not None
    assert join(job, "wrk_b") is None


def test_only_the_oldest_is_given_workers(waiting: Callable[..., Job]) -> None:
    now = datetime.now(UTC)
    older, younger = waiting(created_at=now - timedelta(minutes=2)), waiting(created_at=now)
    younger = gather(younger, "wrk_b")
    assert standing(younger) == gang.Standing(True, 1)
    older = gather(older, "wrk_a")
    assert standing(younger) == gang.Standing(False, 1)
    place = join(younger, "wrk_c")
    assert place is not None
    assert place.job_id == older.id
    begin(older, 2)
    assert standing(younger) == gang.Standing(True, 1), "one that trains takes no more workers"


def test_a_place_whose_worker_is_silent_is_given_to_another(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a")
    lost = join(job, "wrk_b", seconds=-1)
    assert standing(job) == gang.Standing(True, 1)
    assert join(job, "wrk_c") is not None
    assert begin(job, 2) == {0: "first:1", 1: "other:2"}
    assert lost is not None
    with transaction() as session:
        assert not gang.renew(session, lost, LEASE)


def test_who_trains_and_is_silent_is_lost(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a")
    place = join(job, "wrk_b")
    begin(job, 2)
    with transaction() as session:
        assert gang.lost(session, job.id) == []
        past = datetime.now(UTC) - timedelta(seconds=1)
        session.execute(update(GangSeat).where(GangSeat.node == 1).values(lease_expires_at=past))
        assert gang.lost(session, job.id) == [1]
        assert place is not None
        gang.leave(session, place, {"code": "invalid_dataset"})
        assert gang.lost(session, job.id) == []
        assert gang.problems(session, job.id) == ([{"code": "invalid_dataset"}], False)


@pytest.mark.parametrize("change", [{"attempt": 7}, {"status": "queued"}, {"status": "cancelling"}])
def test_places_are_gone_with_the_attempt(waiting: Callable[..., Job], change: dict[str, Any]) -> None:
    job = gather(waiting(), "wrk_a")
    place = join(job, "wrk_b")
    assert place is not None
    with transaction() as session:
        assert gang.held(session, place)
        session.execute(update(Job).where(Job.id == job.id).values(**change))
        assert not gang.held(session, place)
        assert gang.gathering(session, QUEUE) is None
    assert join(job, "wrk_c") is None


def test_a_job_whose_nodes_do_not_come_lets_others_pass_and_fails_in_the_end(
    waiting: Callable[..., Job],
) -> None:
    job, small = waiting(), waiting(created_at=datetime.now(UTC) + timedelta(seconds=1))
    problem = {"code": "no_worker", "detail": "2 nodes were asked for"}
    claimed = gather(job, "wrk_a")
    with transaction() as session:
        lease.postpone(session, job.id, claimed.attempt, 3600, problem, 2)
    now = read_job(job.id)
    assert (now.status, now.gathered, now.stalled_attempts) == ("queued", 1, 0)
    with transaction() as session:
        found = next_in_line(session, QUEUE)
        assert found is not None
        assert found.job_id == small.id
        assert lease.stale_queued(session, QUEUE, 0) == [small.id]
        session.execute(update(Job).where(Job.id == job.id).values(not_before=datetime.now(UTC)))
        assert lease.stale_queued(session, QUEUE, get_settings().resend_seconds) == []
        found = next_in_line(session, QUEUE)
        assert found is not None
        assert found.job_id == job.id
    claimed = gather(job, "wrk_a")
    with transaction() as session:
        lease.postpone(session, job.id, claimed.attempt, 3600, problem, 2)
    assert (read_job(job.id).status, problem_code(read_job(job.id))) == ("failed", "no_worker")


def test_making_room_for_an_older_one_counts_as_nothing(waiting: Callable[..., Job]) -> None:
    job = waiting()
    for _ in range(5):
        claimed = gather(job, "wrk_a")
        with transaction() as session:
            lease.postpone(session, job.id, claimed.attempt, 0, None, 2)
    now = read_job(job.id)
    assert (now.status, now.gathered, now.stalled_attempts) == ("queued", 0, 0)


def test_a_later_attempt_takes_the_gangs_place(waiting: Callable[..., Job]) -> None:
    job = waiting()
    first = gather(job, "wrk_a")
    join(first, "wrk_b")
    with transaction() as session:
        lease.give_back(session, job.id, first.attempt)
    second = gather(job, "wrk_c")
    with transaction() as session:
        gang.close_of(session, job.id, first.attempt)
    (now,) = rows(Gang)
    assert (now.attempt, [seat.worker_id for seat in rows(GangSeat)]) == (second.attempt, ["wrk_c"])


def test_the_time_of_all_nodes_is_paid_for(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a", wanted=3)
    join(job, "wrk_b")
    join(job, "wrk_c", address="third:3")
    begin(job, 3)
    now = datetime.now(UTC)
    with transaction() as session:
        session.execute(
            update(GangSeat).values(joined_at=now - timedelta(hours=1), lease_expires_at=now + timedelta(1))
        )
        session.execute(
            update(GangSeat).where(GangSeat.node == 2).values(left_at=now - timedelta(minutes=30))
        )
        gang.close(session, job.id)
    with transaction() as session:
        assert lease.finish(session, job.id, job.attempt, JobStatus.SUCCEEDED, {})
        session.flush()
        seconds = session.scalars(select(Consumption.seconds)).one()
    assert seconds == pytest.approx(1.5 * 3600, abs=30)


def test_nodes_that_nobody_let_go_count_until_they_were_last_heard_of(waiting: Callable[..., Job]) -> None:
    job = gather(waiting(), "wrk_a")
    join(job, "wrk_b")
    begin(job, 2)
    now = datetime.now(UTC)
    silent = {"joined_at": now - timedelta(hours=2), "lease_expires_at": now - timedelta(hours=1)}
    with transaction() as session:
        session.execute(update(GangSeat).values(**silent))
        assert lease.finish(session, job.id, job.attempt, JobStatus.SUCCEEDED, {})
        session.flush()
        assert session.scalars(select(Consumption.seconds)).one() == pytest.approx(3600, abs=30)
        assert session.scalars(select(GangSeat.worker_id)).all() == []
