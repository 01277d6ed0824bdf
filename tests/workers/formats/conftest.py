"""Ways to damage an upload."""

from collections.abc import Callable

import numpy as np
import pytest


@pytest.fixture
def damaged() -> Callable[[bytes], list[bytes]]:
    """A file's bytes, cut and flipped in seeded places."""

    def damage(data: bytes) -> list[bytes]:
        random = np.random.default_rng(0)
        cut = [data[:length] for length in random.integers(1, len(data), 40)]
        flipped = []
        for place in random.integers(0, len(data), 120):
            changed = bytearray(data)
            changed[place] ^= int(random.integers(1, 256))
            flipped.append(bytes(changed))
        return cut + flipped

    return damage
