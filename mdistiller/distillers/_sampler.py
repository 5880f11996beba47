"""The images that CRD contrasts each image of a batch with."""

from typing import Any

import torch
from torch import nn

from mdistiller.errors import UserError


class Sampler(nn.Module):
    """Draws positives and negatives for a whole batch at once, on the device of the labels.

    The random numbers of a batch are those of its device, seeded anew by a generator on the CPU. That generator's
    state, once used, is part of the state dict, and so a run resumes on another device too; a state dict without it,
    such as a published one, loads as well.
    """

    class_of: torch.Tensor  # of each image; this and the next are None before the labels are known
    column_of: torch.Tensor  # of each image, in the row of `members` that is its class's
    members: torch.Tensor  # (classes, images of the largest class)
    sizes: torch.Tensor  # of each class, in images

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.is_used = False
        for name in ("class_of", "column_of", "members", "sizes"):
            self.register_buffer(name, None, persistent=False)

    def set_targets(self, targets: torch.Tensor) -> None:
        """Learn the class of each training image: targets, int64 (num_data,)."""
        sizes = targets.bincount()
        if (sizes > 0).sum() < 2:
            raise UserError("CRD contrasts images of different classes; the training set has one class only")
        images = torch.arange(len(targets), device=targets.device)
        by_class = targets.argsort(stable=True)
        self.class_of, self.sizes = targets, sizes
        self.column_of = torch.empty_like(targets)
        self.column_of[by_class] = images - (sizes.cumsum(0) - sizes)[targets[by_class]]
        # A row lists a class; behind the images of a smaller one stand numbers beyond the training set.
        self.members = len(targets) + images[: sizes.max()].repeat(len(sizes), 1)
        self.members[targets, self.column_of] = images

    def batch_generator(self) -> torch.Generator:
        """The random numbers of one batch, on the device of the labels."""
        self.is_used = True
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator))
        return torch.Generator(self.class_of.device).manual_seed(seed)

    def draw(self, index: torch.Tensor, k: int, is_exact: bool) -> torch.Tensor:
        """Samples of the images `index` (batch,): (batch, 1 + k), the positive's first, then the negatives.

        The positive is the image itself, or where not `is_exact` another of its class. The negatives are uniform
        over the images of other classes, without replacement unless these are fewer than k. All rows take theirs
        from one permutation of the training set: the first k entries whose class is not the row's.
        """
        if self.class_of is None:
            raise RuntimeError("CRD draws negatives by class; call set_targets(targets) with the training labels first")
        generator = self.batch_generator()
        device, num_data, largest = index.device, len(self.class_of), self.members.shape[1]
        classes = self.class_of[index]
        permutation = torch.randperm(num_data, generator=generator, device=device)
        place = torch.arange(num_data + largest, device=device)
        columns = place[:largest].clone()
        place[permutation] = place[:num_data].clone()
        own = place[self.members[classes]].sort(dim=1).values
        others_before = own - columns

        def negative(rank: torch.Tensor) -> torch.Tensor:
            """Entries of the permutation by their rank (batch, any) among a row's entries of other classes."""
            own_before = torch.searchsorted(others_before, rank, right=True)
            return permutation[(rank + own_before).clamp_max(num_data - 1)]

        indices = torch.empty(len(index), 1 + k, dtype=torch.int64, device=device)
        if k + largest <= num_data:
            # Every row gets the first k entries; then those of its own class, m of them, give way to the next m of
            # other classes. What need not be written goes to column 0.
            indices[:, 1:] = permutation[:k]
            is_first = own < k
            rank = k - is_first.sum(dim=1, keepdim=True) + columns
            indices.scatter_(1, torch.where(is_first, own + 1, 0), negative(rank))
        else:
            others = num_data - self.sizes[classes][:, None]
            uniform = torch.rand(len(index), k, generator=generator, device=device, dtype=torch.float64)
            rank = torch.where(others < k, (uniform * others).long(), torch.arange(k, device=device))
            indices[:, 1:] = negative(rank)
        indices[:, 0] = index if is_exact else self.another_of_the_class(index, generator)
        return indices

    def another_of_the_class(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A uniform draw among the other images of each image's class; itself where there is no other."""
        size = self.sizes[self.class_of[index]]
        uniform = torch.rand(len(index), generator=generator, device=index.device, dtype=torch.float64)
        steps = 1 + (uniform * (size - 1)).long()
        return self.members[self.class_of[index], (self.column_of[index] + steps) % size]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_used:
            destination[f"{prefix}generator"] = self.generator.get_state()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state = state_dict.pop(f"{prefix}generator", None)
        if state is not None:
            self.generator.set_state(state.cpu())
            self.is_used = True
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
