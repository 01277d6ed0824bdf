"""The bare route that `benchmarks.requests` compares with: `python -m benchmarks.bare serve --port PORT`.

The same queries, the same answer, the same server; no request ids, logs, metrics, problem answers or checks of the query.
"""

import sys
from collections.abc import Iterator
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from sqlalchemy.orm import Session

from app.auth.service import Principal, authenticate
from app.db import get_engine
from app.errors import NotFound
from app.jobs.schemas import JobAnswer
from app.jobs.service import answers, get_job
from app.serve import uvicorn_config


def session() -> Iterator[Session]:
    """A session of the request."""
    with Session(get_engine()) as opened:
        yield opened


def principal(
    authorization: Annotated[str, Header()], opened: Annotated[Session, Depends(session)]
) -> Principal:
    """Who asks."""
    known = authenticate(opened, authorization.removeprefix("Bearer "))
    if known is None:
        raise HTTPException(401)
    return known[0]


app = FastAPI()


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


@app.get("/v1/jobs/{job_id}")
def read_job(
    job_id: str, who: Annotated[Principal, Depends(principal)], opened: Annotated[Session, Depends(session)]
) -> JobAnswer:
    """A job, as the service answers it."""
    try:
        job = get_job(opened, who.project_id, job_id)
    except NotFound as error:
        raise HTTPException(404) from error
    return answers(opened, who.project_id, [job])[0]


if __name__ == "__main__":
    uvicorn.Server(uvicorn_config(app, "127.0.0.1", int(sys.argv[3]))).run()
