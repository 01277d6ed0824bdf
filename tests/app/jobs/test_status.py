"""Every pair of states, against the table and against what a job's life must be."""

import itertools

import pytest

from app.errors import Conflict
from app.jobs.status import ALLOWED, JobStatus, check, finished

ENDS = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMED_OUT}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobStatus, JobStatus)))
def test_check_agrees_with_the_table(old: JobStatus, new: JobStatus) -> None:
    if new in ALLOWED[old]:
        check(old, new)
        assert not finished(old)
        assert ALLOWED[old][new]
    else:
        with pytest.raises(Conflict, match=f"{old} cannot become {new}"):
            check(old, new)


def test_every_state_is_in_the_table() -> None:
    assert set(ALLOWED) == set(JobStatus)
    assert {status for status in JobStatus if finished(status)} == ENDS


def test_what_was_asked_to_stop_never_runs_again() -> None:
    assert not {JobStatus.RUNNING, JobStatus.QUEUED} & set(ALLOWED[JobStatus.CANCELLING])


def test_every_state_leads_to_an_end() -> None:
    for start in set(JobStatus) - ENDS:
        reached, left = set(), [start]
        while left:
            status = left.pop()
            if status not in reached:
                reached.add(status)
                left += ALLOWED[status]
        assert reached >= ENDS


def test_unknown_states_are_errors() -> None:
    with pytest.raises(ValueError, match="paused"):
        finished("paused")
    with pytest.raises(ValueError, match="paused"):
        check("queued", "paused")
