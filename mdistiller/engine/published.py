"""MDistiller's trainers: a distiller and loaders in a script of its user's own, around our loop."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdistiller.dataset import Data
from mdistiller.errors import UserError

from .runlog import RunLog
from .runs import LAST, create_run
from .solver import TRAINERS
from .trainer import Trainer
from .values import dump
from .weights import read_checkpoint

NAMES = "image", "target", "index", "contrastive_index"  # of a batch's parts, in MDistiller's order


class Batches:
    """The tuples of a loader as batches of our loop, on `device`.

    Where an epoch goes on, other loaders than ours begin it anew and are read past what was trained on.
    """

    def __init__(self, loader: Any, device: torch.device):
        self.loader, self.device = loader, device
        self.num_images_per_epoch, self.first = len(loader.dataset), 0

    @property
    def image_set(self) -> Any:
        """The images, of which there are `len(image_set)`."""
        return self.loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for parts in islice(self.loader, self.first, None):
            yield {name: part.to(self.device) for name, part in zip(NAMES, parts, strict=False)}

    def part_of_group(self, number: int, size: int) -> tuple[float, bool]:
        """Of `size` batches that a step joins: the share of batch `number`, and whether it is the last."""
        first = number // size * size
        joined = min(size, len(self) - first)
        return 1 / joined, number == first + joined - 1

    def load_state_dict(self, state: dict[str, int]) -> None:
        if hasattr(self.loader, "source"):
            self.loader.source.load_state_dict(state)
        else:
            self.first = state["batch"]


class BaseTrainer:
    """Trains `distiller`, or what DataParallel holds of it, as `cfg` says; SOLVER.TRAINER says by which optimiser.

    Logs and weights go to LOG.PREFIX/experiment_name. The loaders' batches are tuples that begin with images and
    targets.
    """

    def __init__(self, experiment_name: str, distiller: nn.Module, train_loader: Any, val_loader: Any, cfg: Any):
        self.folder, self.cfg = Path(cfg.LOG.PREFIX, experiment_name), cfg
        self.distiller: Any = getattr(distiller, "module", distiller)
        device = next(self.distiller.parameters()).device
        train: Any = Batches(train_loader, device)
        judged: Any = Batches(val_loader, device)
        self.data = Data(train, judged, [], cfg.DATASET.IMAGE_SIZE, (), ())
        self.images = {"train_images": train.num_images_per_epoch, "test_images": judged.num_images_per_epoch}
        if (targets := getattr(train_loader.dataset, "targets", None)) is not None:
            self.distiller.set_targets(torch.as_tensor(targets, device=device))

    def train(self, resume: bool = False) -> None:
        """Run SOLVER.EPOCHS epochs; resume: from where the last run of this name stopped. Raises UserError for none."""
        chosen, weights = self.cfg.DISTILLER, self.folder / "weights"
        found = sorted(weights.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
        if resume and not found:
            raise UserError(f"no run to resume in {weights}; expected a folder with {LAST}; leave out resume")
        title = [chosen.TEACHER, chosen.STUDENT, chosen.TYPE.rpartition(":")[2]]
        files = create_run(self.folder / "logs", weights, self.cfg.DATASET.TYPE, title, title)
        config = dump(self.cfg)
        with RunLog(files, config) as log:
            meta = {
                "run": files.name,
                "network": chosen.STUDENT,
                "dataset": {"type": self.cfg.DATASET.TYPE, **self.images},
                "config": config,
            }
            trainer = Trainer(self.cfg, self.distiller, self.data, files, log, meta)
            if resume:
                trainer.load_state_dict(read_checkpoint(found[-1])["training"])
            trainer.fit()


trainer_dict = dict.fromkeys(TRAINERS, BaseTrainer)
