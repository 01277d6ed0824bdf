"""Workers as clients see them."""

from typing import Any

from pydantic import BaseModel, Field

from app.http.schemas import UtcTime


class WorkerAnswer(BaseModel):
    """A live worker."""

    id: str
    host: str
    version: str
    queues: list[str] = Field(description="The queues that it serves.")
    runtimes: dict[str, Any] = Field(
        description="What it can run: name -> facts; only runtimes whose self-test passed."
    )
    hardware: dict[str, Any]
    sandbox: dict[str, str | None] | None = Field(
        description="What keeps a job's process from the network, from others' files, …: wall -> what it is made of, null where "
        "it is missing. Null in all where the worker does not say."
    )
    jobs: list[str] = Field(description="Jobs of the caller's project that it runs now.")
    other_tasks: int = Field(
        description="What else it does now: jobs of other projects, inspections of uploads."
    )
    started_at: UtcTime
    last_seen_at: UtcTime
