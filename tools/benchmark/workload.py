"""What all parts work on: random images, and the networks and config of the scripts' preset for a pair."""

import torch
from torch import nn

from mdistiller.dataset import DATASETS, ImageSet
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.resolve import Choices, distillation_config
from mdistiller.models import build_model

SIDE, CLASSES = 32, 100


def statistics_of(dataset):
    """Mean and standard deviation of a dataset's channels."""
    return DATASETS[dataset].mean, DATASETS[dataset].std


STATISTICS = statistics_of("cifar100")


def random_images(count):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    return ImageSet(images, targets, [str(i) for i in range(CLASSES)])


def first_images(image_set, count):
    return ImageSet(image_set.images[:count], image_set.targets[:count], image_set.classes)


def config_of(flags, batch_size):
    """The config of the scripts' preset for the pair and method in `flags`."""
    pairs = ["SOLVER.BATCH_SIZE", str(batch_size), "DATASET.AUGMENT", flags.augment]
    choices = Choices(flags.student, flags.teacher, flags.method, pairs=pairs)
    return distillation_config(CIFAR100, choices, flags.device)


def title_of(cfg):
    node = cfg.DISTILLER
    return f"{node.TEACHER} → {node.STUDENT} {node.TYPE}, {cfg.DATASET.AUGMENT}, batch {cfg.SOLVER.BATCH_SIZE}"


@torch.no_grad()
def build_networks(cfg):
    """Student and teacher with random weights; the teacher's batch norms have seen images, as a trained one's have."""
    torch.manual_seed(0)
    student, teacher = (
        build_model("cifar100", name, CLASSES) for name in (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER)
    )
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    teacher.train()(torch.randn(64, 3, SIDE, SIDE))
    return student, teacher.eval()
