"""Every setting of Burnish. Each is an environment variable `BURNISH_<NAME>`."""

from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
GIB = 1024 * MIB


class Settings(BaseSettings):
    """Read once from the environment; the same class serves API, workers and commands."""

    model_config = SettingsConfigDict(env_prefix="BURNISH_", extra="ignore")

    data_dir: Path = Field(
        Path(".burnish"),
        description="Directory of the embedded service: database, blobs, scratch, logs.",
    )
    database_url: str = Field(
        "",
        description="SQLAlchemy URL, `postgresql+psycopg://…` or `sqlite:///…`. Empty: SQLite under the data directory.",
    )
    database_seconds: float = Field(
        15.0,
        ge=0,
        description="Longest wait for one answer of PostgreSQL, in seconds: a connection that was cut in silence is given up "
        "then. Below BURNISH_LEASE_SECONDS. Commands take the time that they need. 0: for ever.",
    )
    database_pooler: bool = Field(
        False,
        description="PostgreSQL is reached through a pooler that gives a connection for one transaction, as PgBouncer in transaction "
        "mode: nothing is prepared on a connection or set for longer than a transaction.",
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(rediss?|redis\+socket)://.+$",
        description="The Celery broker, Redis or Valkey: `redis://host:6379/0`, `rediss://…` over TLS, or "
        "`redis+socket:///path` for a Unix socket.",
    )
    storage_dir: Path | None = Field(
        None,
        description="Where blobs live; API and workers must share it. Empty: `blobs` under the data directory.",
    )
    storage_url: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/.*)?)?$",
        description="A bucket for the blobs, `s3://bucket/prefix`, of this installation alone. Empty: a directory. Needs the "
        "extra `s3`; credentials come from where boto3 looks.",
    )
    s3_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="The address of an S3-compatible service. Empty: Amazon's, or what boto3 finds.",
    )
    s3_region: str = Field("", description="The bucket's region. Empty: what boto3 finds.")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Whether the bucket's name goes into the path or the host name; `auto`: boto3 decides.",
    )
    storage_presigned_downloads: bool = Field(
        False,
        description="Send downloads to the bucket: 307 to a signed address that is good for 15 minutes, for whoever knows it.",
    )
    s3_public_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="The address of the S3 service that clients reach, in signed addresses. Empty: `BURNISH_S3_ENDPOINT`.",
    )
    storage_cache_dir: Path | None = Field(
        None,
        description="Where a worker keeps files of the bucket; best on the scratch directory's file system. Empty: `cache` under "
        "the data directory.",
    )
    storage_cache_bytes: int = Field(
        16 * GIB,
        ge=0,
        description="Most bytes of the bucket's files that a worker keeps, the longest unused going first. 0: none.",
    )
    scratch_dir: Path | None = Field(
        None, description="Where attempts work. Empty: `scratch` under the data directory."
    )
    signing_dir: Path | None = Field(
        None,
        description="The keys that workers sign bundles with, see `burnish keys signing`. Nothing is signed where there is none. "
        "Empty: `signing` under the data directory.",
    )
    public_url: str = Field(
        "http://127.0.0.1:8000", description="The address that clients see; used in links."
    )

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(True, description="Log lines as JSON; false: for people.")
    tracing: bool = Field(
        False,
        description="Send OpenTelemetry traces of requests, jobs and steps by OTLP over HTTP to where the standard variables "
        "`OTEL_EXPORTER_OTLP_*` say. Needs the extra `tracing`.",
    )

    max_upload_bytes: int = Field(
        64 * GIB, gt=0, description="Largest upload in bytes; a larger one is 413 `payload_too_large`."
    )
    upload_hours: float = Field(
        24.0,
        gt=0,
        description="A resumable upload to which nothing was added for longer than this is gone, in hours.",
    )
    upload_stall_seconds: float = Field(
        60.0,
        gt=0,
        description="An upload's request of which fewer than 64 KiB arrive within this time is cut with 408, in seconds.",
    )
    max_body_bytes: int = Field(1 * MIB, gt=0, description="Largest JSON body in bytes; a larger one is 413.")
    max_archive_bytes: int = Field(
        128 * GIB, gt=0, description="Largest total size, in bytes, that an uploaded archive may unpack to."
    )
    max_archive_files: int = Field(10_000, gt=0, description="Most files that an uploaded archive may hold.")
    max_wait_seconds: float = Field(
        60.0, gt=0, description="Longest `?wait=` in seconds; a larger one is cut to this."
    )
    max_connections: int = Field(
        5000,
        gt=0,
        description="Most connections of an API process, idle ones and event streams included; beyond, requests are 503. Fewer "
        "where the limit on open files is too low for it.",
    )
    events_poll_seconds: float = Field(
        0.25, gt=0, description="How often the notifier of an API process looks for new events, in seconds."
    )
    idempotency_hours: float = Field(
        24.0, gt=0, description="How long an `Idempotency-Key` is remembered, in hours."
    )

    gc_grace_seconds: float = Field(
        3600.0,
        ge=0,
        description="Stored files younger than this stay at `burnish gc`, in seconds: a row may be about to name them. Longer "
        "than storing the largest step takes.",
    )

    project_keep_jobs_days: int = Field(
        0,
        ge=0,
        description="How long a finished job is kept with all that it made, in days, where its project says nothing else. "
        "0: for ever.",
    )
    project_keep_steps_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes of stored steps that are kept for a project, where it says nothing else; what was not used for "
        "longest goes first. 0: no limit.",
    )
    keep_events_days: int = Field(
        30,
        ge=0,
        description="How long the events of a job are kept after its end, in days; the last one stays with it. 0: all stay.",
    )
    keep_audit_days: int = Field(
        0, ge=0, description="How long the audit log goes back, in days. 0: to the beginning."
    )
    keep_deliveries_days: int = Field(
        30, ge=0, description="How long it is kept what webhooks were told, in days. 0: for ever."
    )
    gc_hours: float = Field(
        24.0,
        ge=0,
        description="How often `burnish up` removes what is kept no longer, in hours, as `burnish gc` does. 0: never.",
    )

    project_max_stored_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes that a project may store, where it has no limit of its own. 0: no limit.",
    )
    project_max_queued_jobs: int = Field(
        0,
        ge=0,
        description="Most jobs of a project that may wait, where it has no limit of its own. 0: no limit.",
    )
    project_max_running_jobs: int = Field(
        0,
        ge=0,
        description="Most jobs of a project that run at once, where it has no limit of its own; others wait. 0: no limit.",
    )
    key_max_requests_per_minute: int = Field(
        0,
        ge=0,
        description="Most requests of a key in a minute, where its project has no limit of its own. 0: no limit.",
    )
    address_max_wrong_keys_per_minute: int = Field(
        0,
        ge=0,
        description="Most requests of one client address in a minute that carry no valid key; after that, none of this address is "
        "answered until the minute is over. 0: no limit.",
    )

    runtimes: str = Field(
        "",
        description="The runtimes that workers here may offer, with commas (`onnxruntime-cpu,openvino-cpu`): each is tried when a "
        "worker starts, which takes seconds. Empty: all that work.",
    )
    host_name: str = Field(
        "",
        max_length=255,
        description="What a worker's machine is called in leases on its processors and GPUs. Containers on one machine must say the "
        "same, machines different things. Empty: the system's host name.",
    )
    on_demand: str = Field(
        "",
        description="Queues whose workers an autoscaler starts when a job waits in them, with commas "
        "(`runtime.tensorrt,runtime.tensorrt.sm90`): jobs for them are queued although no such worker was ever seen.",
    )
    webhook_allowed: str = Field(
        "",
        description="Hosts that webhooks may reach although their addresses are not public: names, addresses and networks "
        "(`10.1.0.0/16`), with commas.",
    )
    webhook_http: bool = Field(
        False, description="Let webhooks have `http` URLs: what they are told can be read on the way."
    )

    lease_seconds: float = Field(
        30.0, gt=0, description="How long a claim lasts without a heartbeat, in seconds."
    )
    heartbeat_seconds: float = Field(
        5.0, gt=0, description="How often a supervisor renews its lease, in seconds."
    )
    sweep_seconds: float = Field(
        10.0, gt=0, description="How often the sweep looks for lost jobs, in seconds."
    )
    resend_seconds: float = Field(
        30.0,
        gt=0,
        description="A job queued for longer than this since its last message is sent again, in seconds.",
    )
    worker_seen_seconds: float = Field(
        30.0, gt=0, description="A worker that was not heard of for longer than this is offline, in seconds."
    )
    max_attempts: int = Field(
        3, gt=0, description="Attempts of a job without a newly stored step before it fails."
    )
    inspect_seconds: float = Field(300.0, gt=0, description="Longest inspection of an upload, in seconds.")
    step_seconds: float = Field(
        3600.0, gt=0, description="A child that reports nothing for longer than this hangs, in seconds."
    )
    measure_seconds: float = Field(
        6.0,
        gt=0,
        description="How long a job times its engines, in seconds, launches and warm-ups not counted. More gives tighter "
        "intervals, most so on a busy machine.",
    )
    measure_launches: int = Field(
        5,
        ge=2,
        le=100,
        description="How often a job starts each of its engines anew to time it. More gives tighter intervals where starts differ.",
    )
    checkpoint_seconds: float = Field(
        300.0,
        gt=0,
        description="How often training is kept half done, in seconds: what another attempt goes on from after a crash.",
    )
    train_address: str = Field(
        "",
        description="An address of the worker's machine that other workers reach: where it listens while it trains with them, at a "
        "port that the system picks. Empty: this worker takes no part in trainings over several nodes.",
    )
    gather_seconds: float = Field(
        60.0,
        gt=0,
        description="How long a training over several nodes holds workers until all are there, in seconds.",
    )
    gather_attempts: int = Field(
        10,
        gt=0,
        description="How often in a row a training over several nodes is tried while fewer workers for it are online than it asks "
        "for, before its job fails: after BURNISH_GATHER_SECONDS, twice that, four times that …, at most 10 minutes.",
    )
    child_memory_bytes: int = Field(
        0,
        ge=0,
        description="Most resident memory of a child and its processes, in bytes. 0: 80% of the machine's.",
    )
    child_file_bytes: int = Field(
        64 * GIB, gt=0, description="Largest file that a child may write, in bytes."
    )
    child_processes: int = Field(
        4096, gt=0, description="Most processes and threads that a child may have at once."
    )
    child_scratch_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes that a child may have on the scratch disk. 0: 80% of what is free when it starts.",
    )
    require_sandbox: bool = Field(
        False,
        description="Start no worker, and no child, where nothing keeps a child from the network and from others' files.",
    )
    max_log_bytes: int = Field(
        1 * MIB, gt=0, description="Most log text kept per job, in bytes; the middle is cut."
    )

    @property
    def resolved_database_url(self) -> str:
        """The database URL, SQLite under the data directory where none was given."""
        return self.database_url or f"sqlite:///{quote(str((self.data_dir / 'burnish.db').resolve()))}"

    @property
    def queues_on_demand(self) -> list[str]:
        """The queues whose workers an autoscaler starts."""
        return [name.strip() for name in self.on_demand.split(",") if name.strip()]

    @property
    def blobs_path(self) -> Path:
        """The directory that holds blobs."""
        return (self.storage_dir or self.data_dir / "blobs").resolve()

    @property
    def storage_cache_path(self) -> Path:
        """The directory in which a worker keeps files of the bucket."""
        return (self.storage_cache_dir or self.data_dir / "cache").resolve()

    @property
    def signing_path(self) -> Path:
        """The directory of the keys that bundles are signed with."""
        return (self.signing_dir or self.data_dir / "signing").resolve()

    @property
    def scratch_path(self) -> Path:
        """The directory in which attempts work."""
        return (self.scratch_dir or self.data_dir / "scratch").resolve()


@lru_cache
def get_settings() -> Settings:
    """The settings of this process."""
    return Settings()
