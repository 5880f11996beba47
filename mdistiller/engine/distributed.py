"""Several processes that train one student: who they are, and what they exchange.

torchrun starts them, and tells each by environment variables which one it is. They compute together by PyTorch's own
means: NCCL on GPUs, gloo on CPUs, DistributedDataParallel's overlapped reduction of gradients where that fits.
"""

import contextlib
import datetime
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mdistiller.distillers import Distiller
from mdistiller.distillers._base import Alone
from mdistiller.distillers.foreign import ForeignDistiller
from mdistiller.errors import UserError
from mdistiller.share import ALL, FEWEST, Share

from .gather import WholeBatch, whole
from .launch import Launch, last_word

PATIENCE = datetime.timedelta(minutes=30)  # with a process that still reads or downloads
OTHERS = re.compile(r"gloo|NCCL|c10d|ProcessGroup|TCPStore|(reset|closed) by peer", re.IGNORECASE)  # in their errors
TO_MEET = datetime.timedelta(minutes=5)  # at the start
LOST = "another of the processes was lost (for lack of memory, or with its machine)"
T = TypeVar("T")


class Processes(Alone):
    """Those that train together, as this one sees them; here it is the only one, which exchanges nothing."""

    share: Share = ALL
    launch: Launch | None = None

    @property
    def size(self) -> int:
        return self.share.size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, logs and shows."""
        return self.share.rank == 0

    def check(self, solver: Any) -> None:
        """Raise UserError for settings that cannot be in as many processes, on their devices."""

    def begin(self, batches: Any, number: int, *place: int) -> None:
        """Batch `number` of a loader's `batches` comes next. place: where in training, as no other batch has it."""

    def weighed(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`losses` as they count where gradients are averaged over the processes: each by its share of the batch.

        This holds for means over the images as for what each process computes of the whole batch by `whole`.
        """
        return losses

    def counts(self, images: int) -> tuple[int, float]:
        """Of a batch: its images in all processes, and those of the `images` here that no other process counts."""
        return images, images

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` with those of all processes added up in it."""
        return tensor

    def average(self, gradients: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[Any]:
        """Averages over the processes of gradients of the parameters `like`; None for what no process has reached."""
        return list(gradients)

    def first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, which alone calls it, in each."""
        return make()

    def copy(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give `tensors` in each process the values that they have in the first."""

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Within it the first process is alone, then one of each other machine, and then all others.

        These find what it has downloaded.
        """
        yield

    def wait(self) -> None:
        """Until all processes are here."""

    def wrap(self, distiller: Distiller, is_plain: bool) -> Callable[..., Any]:
        """What to call in the place of `distiller`, which learns of the processes.

        is_plain: one backward pass reaches the same parameters in each step; then it averages gradients by itself.
        """
        return distiller

    def leave(self) -> None:
        """Part from the others, where all have come to the end."""


ONE = Processes()


class Several(Processes):
    """Processes of which there are some."""

    def __init__(self, launch: Launch, device: torch.device):
        self.share, self.launch, self.device, self.count = launch.share, launch, device, 0
        self.terms: list[str] | None = None
        self.parts_differ = False  # in which losses and gradients they have
        self.have_whole_batches = False  # and so the same losses
        backend = "nccl" if device.type == "cuda" else "gloo"
        # torchrun may keep its store when it restarts, with the addresses of processes that are gone.
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=TO_MEET)))
        store = dist.PrefixStore(launch.key, store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    def check(self, solver: Any) -> None:
        fewest = FEWEST * self.size
        if solver.BATCH_SIZE < fewest:
            raise UserError(
                f"SOLVER.BATCH_SIZE {solver.BATCH_SIZE} is divided among {self.size} processes; expected at least "
                f"{fewest}, {FEWEST} images for each"
            )
        if solver.SYNC_BN and self.device.type != "cuda":
            raise UserError("SOLVER.SYNC_BN True needs GPUs, as PyTorch's own does; leave it out")

    def begin(self, batches: Any, number: int, *place: int) -> None:
        self.count = batches.images_in(number)
        self.seeds = np.random.SeedSequence((*place, number, self.share.rank))

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[self.share.part(self.count)]

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        return whole(tensor, self.share, self.count)

    def weighed(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.have_whole_batches or not self.share.is_divided(self.count):
            return losses
        own = self.share.part(self.count)
        weight = self.size * (own.stop - own.start) / self.count
        return {name: loss * weight for name, loss in losses.items()}

    def counts(self, images: int) -> tuple[int, float]:
        return self.count, images if self.is_first or self.share.is_divided(self.count) else 0.0

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.device)
        dist.all_reduce(tensor)
        return tensor

    def average(self, gradients: Sequence[torch.Tensor | None], like: Sequence[torch.Tensor]) -> list[Any]:
        reached = [0] * len(gradients)
        if self.parts_differ:
            reached = self.add(torch.tensor([gradient is not None for gradient in gradients]).int()).tolist()
        found = [
            torch.zeros_like(p) if gradient is None and count else gradient
            for gradient, p, count in zip(gradients, like, reached, strict=True)
        ]
        for dtype in dict.fromkeys(gradient.dtype for gradient in found if gradient is not None):
            group = [gradient for gradient in found if gradient is not None and gradient.dtype == dtype]
            flat = torch.cat([gradient.flatten() for gradient in group]).div_(self.size)
            dist.all_reduce(flat)
            for gradient, part in zip(group, flat.split([each.numel() for each in group]), strict=True):
                gradient.copy_(part.view(gradient.shape))
        return found

    def first(self, make: Callable[[], T]) -> T:
        values: list[Any] = [make() if self.is_first else None]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def copy(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        assert self.launch is not None
        turn = 0 if self.is_first else 1 if self.launch.number_on_machine == 0 else 2
        for _ in range(turn):
            self.wait()
        yield
        for _ in range(2 - turn):
            self.wait()

    def wait(self) -> None:
        self.add(torch.zeros(())).item()

    def wrap(self, distiller: Distiller, is_plain: bool) -> Callable[..., Any]:
        distiller.processes, self.terms, self.have_whole_batches = self, None, False
        self.parts_differ = isinstance(distiller, ForeignDistiller) and not distiller.relates_images
        if isinstance(distiller, ForeignDistiller) and distiller.relates_images:
            self.copy([*distiller.parameters(), *distiller.buffers()])
            self.have_whole_batches = True
            return WholeBatch(distiller, self.share, self.apart)
        model: nn.Module = distiller
        if is_plain:
            model = wrapped = DistributedDataParallel(distiller, static_graph=True)
            wrapped.broadcast_buffers = False
        else:
            self.copy([*distiller.parameters(), *distiller.buffers()])

        def forward(**batch: Any) -> Any:
            with self.apart():
                logits, losses = model(**batch)
            if self.parts_differ:
                self.check_terms([*losses])
            return logits, losses

        return forward

    def check_terms(self, names: list[str]) -> None:
        """Raise UserError where the processes have losses of other names, as sums of them would be wrong."""
        theirs: list[Any] = [names] * self.size
        if self.terms is None:
            dist.all_gather_object(theirs, names)
        if any(each != (self.terms or names) for each in theirs):
            raise UserError(
                "which losses a part of the batch has depends on its images; leave relates_images = False out of the "
                "distiller's file, so that each process sees the whole batch"
            )
        self.terms = names

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Within it what draws from torch's own generators, as dropout does, draws otherwise in each process.

        Afterwards these are where they were, at the same place in all processes.
        """
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(self.seeds.spawn(1)[0].generate_state(1, np.uint64)[0]))
            yield

    def leave(self) -> None:
        self.wait()
        dist.destroy_process_group()


def join(device: torch.device) -> Processes:
    """The processes that were started together, once all are here."""
    launch = Launch()
    return ONE if launch.share.size == 1 else Several(launch, device)


def explain_lost(error: BaseException) -> UserError | None:
    """Why the others cannot be reached, where `error` says that: what the first of them to end said, if it could."""
    if not (dist.is_initialized() and isinstance(error, RuntimeError) and OTHERS.search(str(error))):
        return None
    reason = last_word()
    return UserError(reason or LOST)
