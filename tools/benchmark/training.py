"""Our way to train, and both ways side by side."""

import copy
import dataclasses

import torch

from mdistiller.dataset import Data, Loader
from mdistiller.engine.distributed import ONE
from mdistiller.engine.metrics import Meter
from mdistiller.engine.precision import set_backends
from mdistiller.engine.run import assemble, memory_format_of
from mdistiller.engine.trainer import Trainer

from .plain import plain_training
from .process import OwnProcess
from .settings import with_settings
from .timing import alternate
from .way import Way
from .workload import SIDE, STATISTICS


class Training(Way):
    """The project's own trainer, without a run's files."""

    def __init__(self, cfg, student, teacher, image_set, device, processes=ONE):
        image_set = image_set.to(device)
        self.cfg, self.image_set, self.device, self.processes = cfg, image_set, device, processes
        torch.manual_seed(0)
        loader = self.loader(image_set)
        data = Data(loader, None, image_set.classes, SIDE, *STATISTICS)
        self.trainer = Trainer(cfg, assemble(cfg, student, teacher, loader), data, None, None, {}, processes)
        self.trainer.checkpointer.seconds = 0  # there is no file to save to

    def loader(self, image_set):
        return Loader(
            *(image_set, self.cfg.SOLVER.BATCH_SIZE, *STATISTICS, self.cfg.DATASET.AUGMENT),
            shuffle=True,
            seed=0,
            memory_format=memory_format_of(self.cfg),
            share=self.processes.share,
        )

    def set_backends(self):
        set_backends(self.cfg.SOLVER)

    def train_on(self, loader):
        self.set_backends()
        self.trainer.data = dataclasses.replace(self.trainer.data, train=loader)
        self.trainer.meter = Meter(self.device, self.processes)
        self.trainer.train_epoch()
        self.trainer.meter.read()

    def step(self, batch):
        """One step of the trainer's loop; returns the loss as a number."""
        with self.trainer.precision:
            _, losses = self.trainer.distiller(**batch, epoch=self.trainer.epoch)
        self.trainer.optimizer.backward(losses)
        self.trainer.optimizer.step()
        return sum(losses.values()).item()


def build_trainings(cfg, student, teacher, image_set, settings, flags):
    """The plain way and each of `settings`, warmed up: {name: training}, and the memory that each took."""
    torch.compiler.reset()  # it refuses to compile one network for too many
    plain = OwnProcess(plain_training, cfg, len(image_set), flags.device, flags.workers)
    trainings = {"plain": plain} | {
        name: Training(with_settings(cfg, values), *copy.deepcopy((student, teacher)), image_set, flags.device)
        for name, values in settings.items()
    }
    return trainings, {name: training.prepare() for name, training in trainings.items()}


def time_epochs(trainings, flags, warm_up):
    """Median seconds of an epoch, and the number of its steps and images."""
    seconds = alternate({name: t.train_epoch for name, t in trainings.items()}, flags.repeats, flags.device, warm_up)
    *_, ours = trainings.values()
    epoch = ours.epoch
    return seconds, len(epoch), epoch.num_images_per_epoch
