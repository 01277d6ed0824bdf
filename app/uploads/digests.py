"""SHA-256 of uploads whose every byte this process has received: the last request need not read the file again.

What another process appended is not known here: a hash is good for the request that follows the one that left it, by the row's
count of them, and for no other.
"""

import hashlib
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

MOST = 1000  # uploads under way in one process; the longest untouched are read again in the end

_left: "OrderedDict[str, tuple[int, int, _Hash]]" = OrderedDict()
_lock = Lock()


def take(upload_id: str, appends: int, offset_bytes: int) -> "_Hash | None":
    """The hash over what came before `offset_bytes`, for the request that is the upload's `appends`-th; None: not known."""
    with _lock:
        before, size, digest = _left.pop(upload_id, (0, 0, hashlib.sha256()))
    if offset_bytes == 0:
        return hashlib.sha256()
    return digest if (before, size) == (appends - 1, offset_bytes) else None


def leave(upload_id: str, appends: int, offset_bytes: int, digest: "_Hash") -> None:
    """Leave the hash over the first `offset_bytes` for the next request."""
    with _lock:
        _left[upload_id] = appends, offset_bytes, digest
        _left.move_to_end(upload_id)
        if len(_left) > MOST:
            _left.popitem(last=False)
