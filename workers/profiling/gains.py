"""How many times faster a model becomes where some of its layers do.

Source: Amdahl, Validity of the single processor approach to achieving large scale computing capabilities, 1967: what is not changed takes as
long as before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

from app.profiles.schemas import Gain, Profile

NOTICEABLE = 1.03  # a gain below nobody should be bothered with


@dataclass(frozen=True)
class Ratio:
    """New time over the time before: the best and the worst that is to be expected."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """As far from one as from the other, as ratios go."""
        return sqrt(self.low * self.high)


SAME = Ratio(1.0, 1.0)
NONE = Ratio(0.0, 0.0)
AROUND = 1.05  # what layers that stay gain or lose by their new neighbours, of the whole time
MOST = 1000.0  # times faster, beyond which a number says nothing
Bound = Callable[[Ratio], float]


def gain_of(profile: Profile, changed: Mapping[int, Ratio], added: Ratio = NONE) -> Gain:
    """The gain of layers, by their place in the profile, that take these ratios of their time.

    `added` is new work, as a share of the whole time. Layers' times that add up to more than the latency, as a profiler makes them, count
    by their shares of it; where they add up to less, the rest stays as it is.
    """
    whole: float = max(profile.latency["p50_ms"], profile.layers_ms)

    def left(bound: Bound) -> float:
        saved = sum(
            profile.layers[place].mean_ms / whole * (1.0 - bound(ratio)) for place, ratio in changed.items()
        )
        return 1.0 + bound(added) - saved

    return Gain(
        value=_over(left(lambda ratio: ratio.middle)),
        low=_over(left(lambda ratio: ratio.high)) / AROUND,
        high=_over(left(lambda ratio: ratio.low)) * AROUND,
    )


def gain_of_ratio(ratio: Ratio) -> Gain:
    """The gain of a whole model that takes this ratio of its time."""
    return Gain(value=_over(ratio.middle), low=_over(ratio.high), high=_over(ratio.low))


def noticeable(gain: Gain) -> bool:
    """Whether it is worth a word."""
    return gain.value >= NOTICEABLE


def _over(left: float) -> float:
    return min(1.0 / left, MOST) if left > 0 else MOST
