"""VGG with batch norm and a single linear classifier.

Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015; the
8-layer network is that of Tian et al., Contrastive Representation Distillation, ICLR 2020.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average, init_classifier, init_convolutions

CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five blocks of `depths` 3x3 convolutions, with 2x2 max pooling between the first four.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the blocks' sides are h, h/2, h/4, h/8 and
    again h/8. A 64x64 image is pooled once more, before the last block, so that its classifier sees 4x4 maps too.
    """

    def __init__(self, depths: Sequence[int], num_classes: int):
        super().__init__()
        self.block0 = make_block(3, CHANNELS[0], depths[0])
        self.block1 = make_block(CHANNELS[0], CHANNELS[1], depths[1])
        self.block2 = make_block(CHANNELS[1], CHANNELS[2], depths[2])
        self.block3 = make_block(CHANNELS[2], CHANNELS[3], depths[3])
        self.block4 = make_block(CHANNELS[3], CHANNELS[4], depths[4])
        self.classifier = nn.Linear(CHANNELS[4], num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        pool_before_last = x.shape[2] == 64
        x = F.relu(self.block0(x))
        feats, preact_feats = [x], [x]
        for block in (self.block1, self.block2, self.block3, self.block4):
            if block is not self.block4 or pool_before_last:
                x = F.max_pool2d(x, 2)
            preact = block(x)
            x = F.relu(preact)
            feats.append(x)
            preact_feats.append(preact)
        pooled = global_average(x)
        features: Features = {"feats": feats, "preact_feats": preact_feats, "final_map": x, "pooled_feat": pooled}
        return self.classifier(pooled), features

    def get_stage_channels(self) -> list[int]:
        return list(CHANNELS)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, block[-1]) for block in (self.block1, self.block2, self.block3, self.block4)]


def make_block(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` times convolution, batch norm, ReLU, without the last ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


NETWORKS = {
    "vgg8": partial(VGG, (1, 1, 1, 1, 1)),
    "vgg11": partial(VGG, (1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, (2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, (2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, (2, 2, 4, 4, 4)),
}
