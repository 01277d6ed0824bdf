"""Blobs by digest: on a disk that API and workers share (`disk.py`), or in a bucket (`s3.py`)."""

from functools import lru_cache

from app.config import get_settings
from app.storage.blobs import CHUNK_BYTES, Blob, BlobWriter, Partial, PartialWriter, Storage
from app.storage.disk import DiskStorage
from app.storage.trees import TreeFile, parse_tree, tree_text

__all__ = [
    "CHUNK_BYTES",
    "Blob",
    "BlobWriter",
    "DiskStorage",
    "Partial",
    "PartialWriter",
    "Storage",
    "TreeFile",
    "get_storage",
    "parse_tree",
    "tree_text",
]


@lru_cache
def get_storage() -> Storage:
    """The store of this process.

    Raises:
        RuntimeError: the extra `s3` is not installed.
    """
    settings = get_settings()
    if not settings.storage_url:
        return DiskStorage(settings.blobs_path)
    try:
        from app.storage.s3 import S3Storage
    except ModuleNotFoundError as error:
        raise RuntimeError("BURNISH_STORAGE_URL needs boto3: pip install 'burnish[s3]'") from error
    return S3Storage.from_settings(settings)
