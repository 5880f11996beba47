"""Which part of a batch belongs to which of several processes that train together."""

from dataclasses import dataclass

FEWEST = 2  # images of a part, as batch norm needs


@dataclass(frozen=True)
class Share:
    """What process `rank`, from 0, of `size` processes has of each batch.

    The parts are slices in the order of the ranks, which differ by one image at most. A batch of fewer than FEWEST
    images a process belongs to each of them as a whole.
    on_machine: how many of the processes are on this machine, and share its memory and its cores.
    """

    rank: int = 0
    size: int = 1
    on_machine: int = 1

    def is_divided(self, count: int) -> bool:
        """Whether a batch of `count` images is divided."""
        return 1 < self.size and self.size * FEWEST <= count

    def part(self, count: int, rank: int | None = None) -> slice:
        """The part of a batch of `count` images that this process, or that of `rank`, has."""
        if not self.is_divided(count):
            return slice(0, count)
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.size, count * (rank + 1) // self.size)


ALL = Share()  # of one process
