"""What several methods share."""

import functools
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.errors import UserError
from mdistiller.models import probe_features
from mdistiller.models._common import BatchNorm2d

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def full_precision(loss_function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: compute a loss outside autocast, its half-precision tensor arguments in float32.

    float32 and float64 arguments pass unchanged.
    """

    def promote(value: Any) -> Any:
        is_half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if is_half else value

    @functools.wraps(loss_function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
        with torch.autocast(device, enabled=False):
            return loss_function(*map(promote, args), **{name: promote(value) for name, value in kwargs.items()})

    return wrapped


cross_entropy = full_precision(F.cross_entropy)


def total(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    """Sum of one or more scalars."""
    return functools.reduce(operator.add, losses)


def warm_up(epoch: int, epochs: int) -> float:
    """Weight of a distillation loss in epoch `epoch` (from 1) of a linear warm-up over `epochs`."""
    return min(epoch / epochs, 1.0) if epochs > 0 else 1.0


def is_target(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Which logits (batch, classes) are those of the samples' own classes, target (batch,): bool (batch, classes)."""
    return torch.arange(logits.shape[1], device=target.device) == target[:, None]


def low_confidence_share(confidence: torch.Tensor) -> torch.Tensor:
    """Share of the entries of `confidence` (n,) that are at most their median; a scalar.

    `torch.median` is the lower of the two middle values. No entry lies strictly between the two, so the share
    equals the one that their mean gives, and nothing leaves the device.
    """
    return (confidence <= confidence.median()).to(confidence.dtype).mean()


# Of networks; ShuffleV2 makes its list of batch norms anew in every call.
_stage_counts: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def batch_norms_before_relu(network: Any) -> list[nn.BatchNorm2d]:
    """Of each stage of `network`, the last batch norm before its map."""
    return network.get_bn_before_relu()


def stage_channels(network: Any) -> list[int]:
    """Channels of each of the feature maps of `network`."""
    return network.get_stage_channels()


def stages_of(network: nn.Module, entries: Sequence[T]) -> Sequence[T]:
    """`entries`, one for each of the feature maps of `network`, without the stem's, which some networks do not list."""
    if network not in _stage_counts:
        count = getattr(network, "get_num_stages", None)  # of an adapted network, which may have no batch norms
        _stage_counts[network] = count() if count else len(batch_norms_before_relu(network))
    return entries[-_stage_counts[network] :]


def pair_stages(student: Sequence[S], teacher: Sequence[T]) -> list[tuple[S, T]]:
    """Pairs (student's, teacher's) of two lists of stages; of the longer list the deepest stages are kept."""
    stages = min(len(student), len(teacher))
    return list(zip(student[-stages:], teacher[-stages:], strict=True))


def pool_larger(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both maps (batch, channels, height, width) at the smaller size of the two, by average pooling."""
    height, width = map(min, feat_student.shape[2:], feat_teacher.shape[2:])

    return pool_to(feat_student, (height, width)), pool_to(feat_teacher, (height, width))


def pool_to(feat: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A map (batch, channels, height, width) averaged over a grid of `size` cells, (height, width).

    Where the cells are alike, by the pooling whose gradient a GPU computes in one order.
    """
    if feat.shape[2:] == size:
        return feat
    if feat.shape[2] % size[0] == 0 and feat.shape[3] % size[1] == 0:
        return F.avg_pool2d(feat, (feat.shape[2] // size[0], feat.shape[3] // size[1]))
    return F.adaptive_avg_pool2d(feat, size)


class ConvReg(nn.Module):
    """Convolutional regressor of FitNet (ICLR 2015): maps student features onto the teacher's shape.

    s_shape, t_shape: (batch, channels, height, width), of which the batch is ignored. Halves or doubles the
    resolution by a strided (transposed) convolution; bridges any other difference with a kernel of that size.
    """

    def __init__(self, s_shape: Sequence[int], t_shape: Sequence[int], use_relu: bool = True):
        super().__init__()
        self.conv: nn.Conv2d | nn.ConvTranspose2d
        (_, s_channels, s_height, s_width), (_, t_channels, t_height, t_width) = s_shape, t_shape
        self.use_relu = use_relu
        if s_height == 2 * t_height:
            self.conv = nn.Conv2d(s_channels, t_channels, kernel_size=3, stride=2, padding=1)
        elif s_height * 2 == t_height:
            self.conv = nn.ConvTranspose2d(s_channels, t_channels, kernel_size=4, stride=2, padding=1)
        elif s_height >= t_height:
            kernel_size = (1 + s_height - t_height, 1 + s_width - t_width)
            self.conv = nn.Conv2d(s_channels, t_channels, kernel_size)
        else:
            kernel_size = (1 + t_height - s_height, 1 + t_width - s_width)
            self.conv = nn.ConvTranspose2d(s_channels, t_channels, kernel_size)
        self.bn = BatchNorm2d(t_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return self.relu(x) if self.use_relu else x


def require_final_map(method: str, *networks: nn.Module) -> None:
    """Raise UserError for a network of others without "final_map", which `method` reads."""
    for network in networks:
        contract = getattr(network, "contract", None)
        if contract is not None and contract.final is None:
            raise UserError(
                f"{method} asks the classifier about the last map, and that of {contract.name} reads no average of it; "
                "choose another network, or another method"
            )


def get_feat_shapes(
    student: nn.Module, teacher: nn.Module, input_size: Sequence[int]
) -> tuple[list[torch.Size], list[torch.Size]]:
    """Shapes of the "feats" of both networks for images of `input_size` (height, width).

    Returns two lists of sizes (1, channels, height, width), the student's and the teacher's. The published
    code probes in train mode, which moves batch-norm statistics; here they are untouched.
    """
    shapes = [[feat.shape for feat in probe_features(network, input_size)["feats"]] for network in (student, teacher)]
    return shapes[0], shapes[1]
