"""A scratch disk without space, as the problem that the user sees. Children import this: it needs no database."""

import errno

from app.errors import DiskFull


def disk_full(error: Exception) -> DiskFull | None:
    """The problem of a scratch disk without space, None where the error is another one."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return DiskFull("the scratch disk has no space left", hint="free space where BURNISH_SCRATCH_DIR points")
