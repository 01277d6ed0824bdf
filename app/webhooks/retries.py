"""When a message is tried again: ten attempts over three days, as the Standard Webhooks specification advises (pure)."""

import random

MINUTE, HOUR = 60.0, 3600.0
PAUSES_SECONDS = (
    5.0,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
)
JITTER = 0.2  # of the pause, to either side: receivers that come back are not met by everything at once


def pause_seconds(attempts: int) -> float | None:
    """How long to wait after so many attempts; None: it is given up."""
    if attempts > len(PAUSES_SECONDS):
        return None
    return PAUSES_SECONDS[attempts - 1] * random.uniform(1 - JITTER, 1 + JITTER)
