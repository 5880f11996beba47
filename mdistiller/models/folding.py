"""Batch norms folded into the convolutions before them, for a network that only infers.

Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
CVPR 2018, section 3.2.
"""

import copy
from collections import Counter
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

from ._watch import watch

ROUNDING = 1e-4  # in the outputs of a folded network, beside their largest


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
    norm is folded where it alone reads what a convolution makes and both run once, as torch.fx finds. In a network of
    others, where torch.fx may lose its way, an image's does, and a second one shows that nothing else reads it.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    contract = getattr(folded, "contract", None)
    pairs = _foldable_pairs(folded) if contract is None else _watched_pairs(folded, contract.image_size)
    for convolution, norm in pairs:
        _fold(convolution, norm)
    if contract is not None and not _is_equal(network, folded, contract.image_size):
        return copy.deepcopy(network).eval().requires_grad_(False)
    return folded


def _watched_pairs(network: nn.Module, image_size: int) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs (convolution, batch norm) of modules of `network`, by the calls that one image makes."""
    root, _ = watch(network, _image_for(network, image_size, seed=0))
    calls = list(root.walk())
    counts, readers = (
        Counter(call.module for call in calls),
        Counter(id(call.given) for call in calls if not call.calls),
    )
    makers = {id(call.returned): call.module for call in calls if type(call.module) is nn.Conv2d}
    pairs = []
    for call in calls:
        norm, convolution = call.module, makers.get(id(call.given))
        if type(norm) is nn.BatchNorm2d and norm.running_mean is not None and isinstance(convolution, nn.Conv2d):
            if readers[id(call.given)] == counts[norm] == counts[convolution] == 1:
                pairs.append((convolution, norm))
    return pairs


@torch.no_grad()
def _is_equal(network: nn.Module, folded: nn.Module, image_size: int) -> bool:
    """Whether both turn an image into the same logits and features, up to rounding."""
    image, was_training = _image_for(network, image_size, seed=1), network.training
    expected, found = (tree_leaves(each(image)) for each in (network.eval(), folded))
    network.train(was_training)
    return all(
        torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING * float(a.abs().max()))
        for a, b in zip(expected, found, strict=True)
    )


def _image_for(network: nn.Module, image_size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, image_size, image_size, generator=generator).to(next(network.parameters()))


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


class _Tracer(fx.Tracer):
    """Follows `forward` where it branches on the size of an image; either way, the modules before are the same."""

    def to_bool(self, obj: fx.Proxy) -> bool:
        return True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _foldable_pairs(network: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs (convolution, batch norm) of modules of `network`."""
    try:
        graph = _Tracer().trace(network)
    except Exception:  # a network with a contract of its own may do what cannot be followed
        return []
    called: dict[Any, Any] = {
        node: network.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"
    }
    calls = Counter(called.values())

    def can_fold(source: fx.Node, norm: nn.Module) -> bool:
        convolution = called.get(source)
        if type(convolution) is not nn.Conv2d or type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
            return False
        return calls[convolution] == calls[norm] == 1 and len(source.users) == 1

    return [(called[node.args[0]], norm) for node, norm in called.items() if node.args and can_fold(node.args[0], norm)]
