"""Both stores, empty; S3 in parts as small as S3 allows."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.storage import DiskStorage, Storage, get_storage
from app.storage.bucket import MIB
from app.storage.s3 import S3Storage

PART = 5 * MIB


@pytest.fixture
def s3_storage(s3: str) -> S3Storage:
    storage = get_storage()
    assert isinstance(storage, S3Storage)
    storage.bucket.part_bytes = PART

    def begun_now(parsed: dict[str, Any], **_: Any) -> None:  # moto says 2010, always
        for found in parsed.get("Uploads", ()):
            found["Initiated"] = datetime.now(UTC)

    storage.bucket.client.meta.events.register("after-call.s3.ListMultipartUploads", begun_now)
    return storage


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return DiskStorage(tmp_path / "blobs")
    found: S3Storage = request.getfixturevalue("s3_storage")
    return found


@pytest.fixture
def grow_old(storage: Storage) -> Callable[[], None]:
    """Makes everything that is stored now two hours older; what is stored later is as young as it is."""

    def disk(storage: DiskStorage) -> None:
        for path in storage.root.glob("*/*"):
            os.utime(path, (time.time() - 7200,) * 2)

    def s3(storage: S3Storage) -> None:
        time.sleep(1.1 - time.time() % 1)  # S3 knows whole seconds: what comes next is of another
        latest = max((found["LastModified"] for found in objects(storage)), default=None)

        def older(parsed: dict[str, Any], **_: Any) -> None:
            for found in (parsed, *parsed.get("Contents", ())):
                if "LastModified" in found and latest is not None and found["LastModified"] <= latest:
                    found["LastModified"] -= timedelta(hours=2)

        for operation in ("HeadObject", "ListObjectsV2"):
            storage.bucket.client.meta.events.register(f"after-call.s3.{operation}", older)

    return lambda: s3(storage) if isinstance(storage, S3Storage) else disk(storage)  # type: ignore[arg-type]


def objects(storage: S3Storage) -> list[dict[str, Any]]:
    """Everything in the bucket."""
    found: list[dict[str, Any]] = storage.bucket.client.list_objects_v2(Bucket=storage.bucket.name).get(
        "Contents", []
    )
    return found


def leftovers(storage: Storage) -> list[str]:
    """What lies about that is no blob."""
    if isinstance(storage, S3Storage):
        bucket = storage.bucket
        uploads = bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads", [])
        keys = [found["Key"].removeprefix(bucket.prefix) for found in objects(storage)]
        return [*(key for key in keys if not key.startswith("blobs/")), *(found["Key"] for found in uploads)]
    assert isinstance(storage, DiskStorage)
    return [path.name for folder in ("incoming", "partial") for path in (storage.root / folder).iterdir()]
