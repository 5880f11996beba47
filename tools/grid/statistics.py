"""What a few seeds say: means, spreads, and how far a difference can be trusted."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Student's t for 1, 2, … degrees of freedom: in how many standard errors from 0 a mean is one time in 20 by chance
T_QUANTILES = 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11
T_OF_MANY = 2.10  # for 18 and more, where it falls to 1.96


@dataclass(frozen=True)
class Sample:
    """mean: of `count` values; deviation: their standard deviation (n - 1), None for one."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Sample | None":
        """Of no values None."""
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)

    @property
    def is_clear(self) -> bool:
        """Whether the mean differs from 0 by more than chance gives one time in 20."""
        if not self.error:  # of equal values there is too little to tell
            return False
        index = self.count - 2
        return abs(self.mean) > (T_QUANTILES[index] if index < len(T_QUANTILES) else T_OF_MANY) * self.error

    def minus(self, number: float) -> "Sample":
        return Sample(self.mean - number, self.deviation, self.count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Sample | None:
    """Of the differences ours - theirs of the keys, seeds, that both have."""
    return Sample.of([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
