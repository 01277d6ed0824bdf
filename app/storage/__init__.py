"""Blobs by digest: on a disk that API and workers share (`disk.py`)."""

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
    """The store of this process."""
    return DiskStorage(get_settings().blobs_path)
