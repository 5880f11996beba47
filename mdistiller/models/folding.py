"""Batch norms folded into the convolutions before them, for a network that only infers.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018, section 3.2.
"""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from ._probe import images_for, trace

SIDE = 32  # of the images, in pixels, on which a network of ours is looked at


class FoldedBatchNorm(nn.BatchNorm2d):
    """A batch norm that the convolution before it has taken over: (batch, channels, h, w), unchanged.

    It keeps its parameters and statistics, for those who read them.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("a network with folded batch norms only infers: call its eval(), or train the original")
        return x


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy of `network` for inference: in eval mode, without gradients, batch norms folded into convolutions.

    Modules keep their names and state; only what a folded convolution returns, and its weight and bias, differ. A batch
    norm is folded where it alone reads what a convolution makes and both run once, as a forward pass shows.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for convolution, norm in _foldable_pairs(folded):
        _fold(convolution, norm)
    return folded


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Fold in place; in float64, so that the weights are rounded once."""
    mean, variance = cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)
    scale, shift = (None if parameter is None else parameter.double() for parameter in (norm.weight, norm.bias))
    weight, bias = fuse_conv_bn_weights(
        convolution.weight.double(),
        None if convolution.bias is None else convolution.bias.double(),
        *(mean.double(), variance.double(), norm.eps),
        *(scale, shift),
    )
    convolution.bias = nn.Parameter(bias.to(convolution.weight), requires_grad=False)
    convolution.weight.copy_(weight)
    norm.__class__ = FoldedBatchNorm


def _foldable_pairs(network: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs (convolution, batch norm) of modules of `network`; none where it does not run on the images of a probe."""
    contract = getattr(network, "contract", None)
    try:
        written = trace(network, images_for(network, SIDE if contract is None else contract.image_size))
    except (RuntimeError, ValueError, AssertionError):
        return []
    returned = {id(leaf) for leaf in tree_leaves(written.output)}
    makers = {call.output: call.module for call in written.calls if type(call.module) is nn.Conv2d and call.made_output}

    def is_all_that_reads(norm: nn.BatchNorm2d, convolution: nn.Conv2d, between: torch.Tensor) -> bool:
        once = written.numbers[norm] == written.numbers[convolution] == 1
        reads = {written.reads[id(tensor)] for tensor in (between, convolution.weight)}
        hooks = (*convolution._forward_hooks, *convolution._forward_pre_hooks, *norm._forward_pre_hooks)
        return once and reads == {1} and id(between) not in returned and not hooks

    return [
        (convolution, norm)
        for call in written.calls
        if type(norm := call.module) is nn.BatchNorm2d and norm.running_mean is not None
        if call.input is not None and isinstance(convolution := makers.get(call.input), nn.Conv2d)
        if is_all_that_reads(norm, convolution, written.tensors[call.input])
    ]
