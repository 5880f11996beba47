"""One process, by what a method asks of several."""

import torch


class Alone:
    """What a method sees of the other processes where there are none: its part of a batch is the whole."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of the whole batch, of which `tensor` (part of the batch, ...) holds those of this process.

        A gradient runs back to these.
        """
        return tensor

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of this process, out of `tensor` (whole batch, ...)."""
        return tensor


ALONE = Alone()
