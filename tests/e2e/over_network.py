"""An installation whose parts meet over a network: PostgreSQL, Redis, a bucket and the API at one address, workers on hosts."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3

from app.client import Client
from tests.e2e.test_production import first_key, is_ready, running, until
from tests.e2e.wires import Host
from tests.services import free_port, running_postgres, running_redis, running_s3

BUCKET = "burnish"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "a secret of the tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def variables(**settings: str) -> dict[str, str]:
    """The environment variables of settings."""
    return {f"BURNISH_{name}": value for name, value in settings.items()}


def folders(below: Path) -> dict[str, str]:
    """Settings of a process on a machine that shares no files with the others."""
    names = {"DATA_DIR": "data", "STORAGE_CACHE_DIR": "cache", "SCRATCH_DIR": "scratch"}
    return {setting: str(below / name) for setting, name in names.items()}


@dataclass(frozen=True)
class Installation:
    """A client of its API, what its processes are started with, and a folder for what is theirs alone."""

    client: Client
    environment: dict[str, str]
    folder: Path
    database_url: str
    stack: ExitStack = field(repr=False)

    def own(self, name: str) -> dict[str, str]:
        """Settings of a process on a machine of that name."""
        return folders(self.folder / name)

    def at(self, name: str, **settings: str) -> dict[str, str]:
        """All variables of such a process."""
        return {**self.environment, **variables(**self.own(name), **settings)}

    def worker(self, host: Host, *arguments: str, **settings: str) -> None:
        """Start a worker on a host, which ends with the installation."""
        own = self.at(host.name, **settings)
        self.stack.enter_context(running(own, "worker", *arguments, before_it=host.inside))


@contextmanager
def installed(address: str, folder: Path, **settings: str) -> Iterator[Installation]:
    """All of it but workers for jobs; one that inspects is there."""
    with ExitStack() as stack:
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bpg")))
        storage = stack.enter_context(running_s3(address))
        database_url = stack.enter_context(running_postgres(short, address))
        environment = {
            **os.environ,
            **CREDENTIALS,
            "BURNISH_DATABASE_URL": database_url,
            "BURNISH_REDIS_URL": stack.enter_context(running_redis(host=address)),
            "BURNISH_STORAGE_URL": f"s3://{BUCKET}/shared",
            "BURNISH_S3_ENDPOINT": storage,
            "BURNISH_S3_REGION": "us-east-1",
            **variables(**settings),
        }
        boto3.client(
            "s3", endpoint_url=storage, region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        ).create_bucket(Bucket=BUCKET)  # fmt: skip
        own = {**environment, **variables(**folders(folder / "api"))}
        key = first_key(own)
        port = free_port()
        stack.enter_context(running(own, "serve", "--host", address, "--port", str(port)))
        stack.enter_context(running(own, "worker", "--queues", "inspect"))
        client = stack.enter_context(Client(f"http://{address}:{port}", key, patience_seconds=60))
        until(lambda: is_ready(port, address))
        until(lambda: client.workers() != [])
        yield Installation(client, environment, folder, database_url, stack)
