"""ShuffleNetV2 of width 1 for small images.

Source: Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018.
"""

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, channel_shuffle, global_average

CHANNELS = (24, 116, 232, 464)  # stem, then the three stages
DEPTHS = (3, 7, 3)  # blocks a stage, after the one that halves the side
LAST_CHANNELS = 1024


class DownBlock(nn.Module):
    """Two branches of stride 2 side by side: (batch, in_channels, h, w) -> (batch, channels, h/2, w/2).

    The output is before its ReLU and shuffle.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return torch.cat([left, right], dim=1)


class BasicBlock(nn.Module):
    """One half of the channels passes through, the other is convolved; the map keeps its shape.

    The output is before its ReLU and shuffle; the half that passes through has had its ReLU already, and a second one
    changes nothing.
    """

    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        passthrough, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        return torch.cat([passthrough, out], dim=1)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stages' sides are h/2, h/4, h/8.
    An entry of `feats` is the matching entry of `preact_feats` after ReLU and shuffle: its channels are in another
    order, as published. `pooled_feat` has 1024 channels: it comes after one more 1x1 convolution.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.layer1 = make_stage(CHANNELS[0], CHANNELS[1], DEPTHS[0])
        self.layer2 = make_stage(CHANNELS[1], CHANNELS[2], DEPTHS[1])
        self.layer3 = make_stage(CHANNELS[2], CHANNELS[3], DEPTHS[2])
        self.conv2 = nn.Conv2d(CHANNELS[3], LAST_CHANNELS, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(LAST_CHANNELS)
        self.linear = nn.Linear(LAST_CHANNELS, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        x = F.relu(self.bn1(self.conv1(x)))
        feats, preact_feats = [x], [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            for block in stage:
                preact = block(x)
                x = channel_shuffle(F.relu(preact), groups=2)
            feats.append(x)
            preact_feats.append(preact)
        final_map = F.relu(self.bn2(self.conv2(x)))
        pooled = global_average(final_map)
        features: Features = {
            "feats": feats,
            "preact_feats": preact_feats,
            "final_map": final_map,
            "pooled_feat": pooled,
        }
        return self.linear(pooled), features

    def get_stage_channels(self) -> list[int]:
        return list(CHANNELS)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """A copy, a stage, of the batch norms that made the channels of its `preact_feats` entry.

        The last block makes only half of them; the others passed through it, so their values are those of the batch
        norms of earlier blocks. The copies hold the values of the moment and follow no later training.
        """
        return [trace_batch_norm(stage) for stage in (self.layer1, self.layer2, self.layer3)]


def make_stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(in_channels, channels), *(BasicBlock(channels) for _ in range(blocks)))


@torch.no_grad()
def trace_batch_norm(stage: nn.Sequential) -> nn.BatchNorm2d:
    """The batch norm of full width behind a stage's last map before ReLU and shuffle.

    Each parameter and statistic, a vector with one value a channel, takes the way of the channels through the stage.
    """
    down, *blocks = stage

    def trace(field: str) -> torch.Tensor:
        values = torch.cat([getattr(down.bn2, field), getattr(down.bn5, field)])
        for block in blocks:
            passthrough, _ = channel_shuffle(values[None], groups=2)[0].chunk(2)
            values = torch.cat([passthrough, getattr(block.bn3, field)])
        return values

    weight = trace("weight")
    norm = nn.BatchNorm2d(len(weight), device=weight.device, dtype=weight.dtype)
    for field in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, field).copy_(trace(field))
    return norm.eval().requires_grad_(False)


NETWORKS = {"ShuffleV2": ShuffleNetV2}
