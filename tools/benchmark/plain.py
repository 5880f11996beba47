"""The plain way to train, that of published code."""

import torch

from mdistiller.distillers import build_distiller

from .plain_images import plain_loader
from .way import Way
from .workload import build_networks, random_images


class PlainTraining(Way):
    """Training as published trainers do it: float32, NCHW, the teacher as it is, values read back in every step.

    The networks and losses are this project's; part `losses` compares the losses.
    """

    def __init__(self, cfg, student, teacher, image_set, device, workers=0):
        self.cfg, self.image_set, self.device, self.workers = cfg, image_set, device, workers
        torch.manual_seed(0)  # for the modules that a method adds
        self.distiller = build_distiller(cfg.DISTILLER.TYPE, student, teacher, cfg, len(image_set)).to(device)
        self.distiller.set_targets(image_set.targets.to(device))
        self.optimizer = torch.optim.SGD(
            self.distiller.get_learnable_parameters(),
            lr=cfg.SOLVER.LR,
            momentum=cfg.SOLVER.MOMENTUM,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )

    def loader(self, image_set):
        return plain_loader(image_set, self.cfg.SOLVER.BATCH_SIZE, self.cfg.DATASET.AUGMENT, self.workers)

    def train_on(self, loader):
        set_plain_backends()
        self.distiller.train()
        for image, target, index in loader:
            self.step(image.to(self.device), target.to(self.device), index.to(self.device))

    def step(self, image, target, index):
        """One step; returns the loss and the two accuracies, as numbers."""
        logits, losses = self.distiller(image=image, target=target, index=index, epoch=1)
        loss = sum(losses.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        hits = logits.topk(5, dim=1).indices == target[:, None]
        top1, top5 = hits[:, :1].sum() / len(target), hits.sum() / len(target)
        return loss.item(), top1.item(), top5.item()


def set_plain_backends():
    """What published scripts set, and PyTorch's defaults: on CUDA convolutions are autotuned and may use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True


def plain_training(cfg, images, device, workers):
    """`PlainTraining` of what the seeds make: nothing large is sent to another process."""
    return PlainTraining(cfg, *build_networks(cfg), random_images(images), device, workers)
