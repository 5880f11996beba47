"""A distiller file that counts on the whole batch in whatever it does."""

import copy

import torch
from torch import nn

from mdistiller.distillers import Distiller


class Relational(Distiller):
    """Mixes images of the batch at random, and relates them by a layer of its own."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.layer = nn.Linear(64, 64)

    def forward_train(self, image, target, index, **kwargs):
        mixed = image + 0.1 * image[torch.randperm(len(image))]
        logits, features = self.student(mixed)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(torch.cat([mixed, image]))
        embedding = self.layer(features["pooled_feat"])
        relation = (embedding @ embedding.T).square().sum() / 1e4
        weights = index.double() / index.sum()
        loss = (weights * (logits - logits_teacher[: len(image)]).square().sum(dim=1)).sum()
        again = (logits - logits_teacher[len(image) :]).abs().amax()
        return logits, {"loss_ce": nn.functional.cross_entropy(logits, target), "loss_kd": loss + relation + again}


class Local(Relational):
    """Says that its loss is a mean over the images."""

    relates_images = False

    def forward_train(self, image, target, **kwargs):
        logits, features = self.student(image)
        losses = self.layer(features["pooled_feat"]).square().mean()
        return logits, {"loss_ce": nn.functional.cross_entropy(logits, target), "loss_kd": losses}


class Views(Distiller):
    """Calls its networks with both views at once, with some of the images, and with a copy that it makes late."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.copies = []

    def forward_train(self, image, target, **kwargs):
        if not self.copies:
            self.copies.append(copy.deepcopy(self.student))
        logits, again = self.student(torch.cat([image, image.flip(3)]))[0].chunk(2)
        some, _ = self.student(image[target % 2 == 0])
        with torch.no_grad():
            before, _ = self.copies[0](image)
        loss = (logits - again).square().mean() + some.square().sum() / 100 + (logits - before).square().mean()
        return logits, {"loss_ce": nn.functional.cross_entropy(logits, target), "loss_kd": loss}


class Hard(Local):
    """Means over images of which some parts have none: a layer that not every part reaches."""

    relates_images = False

    def forward_train(self, image, target, **kwargs):
        logits, features = self.student(image)
        chosen = target % 2 == 0
        pooled = self.layer(features["pooled_feat"]) if chosen.sum() > 4 else features["pooled_feat"]
        losses = {"loss_ce": nn.functional.cross_entropy(logits, target), "loss_kd": pooled.square().mean()}
        return logits, losses


class Named(Local):
    """Losses whose names depend on the images."""

    relates_images = False

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        loss = nn.functional.cross_entropy(logits, target)
        return logits, {"loss_ce": loss, f"loss_{int(target[0])}": 0 * loss}


class Inner(Relational):
    """Takes gradients by the images itself."""

    def forward_train(self, image, target, **kwargs):
        image = image.clone().requires_grad_()
        logits, _ = self.student(image)
        (gradient,) = torch.autograd.grad(logits.sum(), image, retain_graph=True)
        return logits, {"loss_ce": nn.functional.cross_entropy(logits + gradient.mean(), target)}
