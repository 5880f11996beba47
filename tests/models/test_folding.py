"""Folding batch norms into convolutions changes no output, and stays away from what it cannot prove."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models.folding import FoldedBatchNorm, fold_batch_norms
from tests.golden import fill
from tests.models.networks import ALL, ONE_PER_FAMILY, build, images_for

WRN_BLOCKS = {"cifar100/wrn_16_1": 2, "cifar100/wrn_16_2": 2, "cifar100/wrn_40_1": 6, "cifar100/wrn_40_2": 6}


def randomise_norms(network):
    """Every batch norm of `network` with parameters and statistics of its own."""
    torch.manual_seed(1)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in (("running_mean", -0.3, 0.3), ("running_var", 0.5, 1.5), ("weight", 0.5, 1.5)):
                if getattr(norm, values) is not None:
                    nn.init.uniform_(getattr(norm, values), low, high)
            if norm.bias is not None:
                nn.init.uniform_(norm.bias, -0.3, 0.3)
    return network


def norms_left(network):
    return {name for name, module in network.named_modules() if type(module) is nn.BatchNorm2d}


@torch.no_grad()
def outputs_of(network, images):
    """Logits and every feature, in one list."""
    logits, features = network(images)
    maps = features["feats"] + features["preact_feats"]
    return [logits, *maps, features["final_map"], features["pooled_feat"]]


def error(outputs, expected):
    """Largest difference, each output measured by its own largest entry."""
    assert len(outputs) == len(expected)
    return max(
        ((output.double() - truth.double()).abs().max() / truth.abs().max()).item()
        for output, truth in zip(outputs, expected, strict=True)
    )


@pytest.fixture(scope="module", params=ALL)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def network(path):
    """As built, in train mode and float32."""
    return randomise_norms(build(path))


@pytest.fixture(scope="module")
def folded(network):
    return fold_batch_norms(network)


def test_outputs_in_float64(path, network):
    images = images_for(path, 2).double()
    double = copy.deepcopy(network).double().eval()
    assert error(outputs_of(fold_batch_norms(double), images), outputs_of(double, images)) < 1e-12


def test_outputs_in_float32(path, network, folded):
    images = images_for(path, 2)
    assert error(outputs_of(folded, images), outputs_of(copy.deepcopy(network).eval(), images)) < 1e-5


def test_only_the_norms_before_a_wide_resnets_blocks_are_left(path, folded):
    expected = set()
    if path in WRN_BLOCKS:
        blocks = range(WRN_BLOCKS[path])
        expected = {f"block{stage}.layer.{block}.bn1" for stage in (1, 2, 3) for block in blocks} | {"bn1"}
    assert norms_left(folded) == expected


def test_folding_leaves_the_network_as_it_was(network):
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    fold_batch_norms(network)
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(isinstance(module, FoldedBatchNorm) for module in network.modules())


def test_folded_network_is_frozen_and_in_eval_mode(folded):
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not any(module.training for module in folded.modules())


def test_folded_network_keeps_its_class_channels_and_norms(network, folded):
    assert type(folded) is type(network)
    assert folded.get_stage_channels() == network.get_stage_channels()
    kept, norms = folded.get_bn_before_relu(), network.get_bn_before_relu()
    assert len(kept) == len(norms)
    for ours, theirs in zip(kept, norms, strict=True):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_rounding_is_no_worse_than_the_networks_own():
    """Deep networks with calibrated statistics amplify rounding beyond 1e-5, folded or not."""
    network = build("cifar100/resnet110").double()
    fill.fill_(network.state_dict())
    fill.calibrate_(network, 32)
    network.eval()
    images = images_for("cifar100/resnet110", 4).double()
    truth = outputs_of(network, images)
    network.float()
    own = error(outputs_of(network, images.float()), truth)
    assert error(outputs_of(fold_batch_norms(network), images.float()), truth) < 2 * own


@pytest.mark.parametrize("path", ONE_PER_FAMILY)
def test_folded_network_compiles_to_one_graph(path):
    torch.compiler.reset()
    folded = fold_batch_norms(randomise_norms(build(path)))
    images = images_for(path, 2)
    compiled = torch.compile(folded, fullgraph=True, backend="eager")
    assert error(outputs_of(compiled, images), outputs_of(folded, images)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_channels_last_are_kept(dtype):
    network = build("cifar100/ShuffleV2").to(dtype=dtype, memory_format=torch.channels_last)
    folded = fold_batch_norms(network)
    layouts = {name: parameter.stride() for name, parameter in folded.named_parameters()}
    assert {parameter.dtype for parameter in folded.parameters()} == {dtype}
    assert all(layouts[name] == parameter.stride() for name, parameter in network.named_parameters())


def test_folding_twice_is_folding_once():
    folded = fold_batch_norms(randomise_norms(build("cifar100/wrn_16_1")))
    images = images_for("cifar100/wrn_16_1", 2)
    assert error(outputs_of(fold_batch_norms(folded), images), outputs_of(folded, images)) == 0


def test_a_folded_network_refuses_to_normalise_by_the_batch():
    with pytest.raises(RuntimeError, match="eval"):
        fold_batch_norms(build("cifar100/resnet8")).train()(images_for("cifar100/resnet8", 2))


class Pair(nn.Module):
    """A convolution and a batch norm, in that order."""

    def __init__(self, bias=False, **norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(3, **norm)

    def forward(self, x):
        return self.bn(self.conv(x))


class CalledTwice(Pair):
    def forward(self, x):
        return super().forward(super().forward(x))


class NormCalledTwice(Pair):
    def forward(self, x):
        return self.bn(super().forward(x))


class UsedTwice(Pair):
    def forward(self, x):
        x = self.conv(x)
        return self.bn(x) + x


class ReturnsConvolution(Pair):
    def forward(self, x):
        x = self.conv(x)
        return torch.cat([self.bn(x), x])


class NormFirst(Pair):
    def forward(self, x):
        return self.conv(self.bn(x))


class ReluBetween(Pair):
    def forward(self, x):
        return self.bn(F.relu(self.conv(x)))


LEFT_ALONE = (CalledTwice, NormCalledTwice, UsedTwice, ReturnsConvolution, NormFirst, ReluBetween)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_pair_folds_with_and_without_each_parameter(bias, affine):
    pair = randomise_norms(Pair(bias, affine=affine)).double().eval()
    folded = fold_batch_norms(pair)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(folded(images), pair(images), rtol=1e-12, atol=1e-12)
    assert type(folded.bn) is FoldedBatchNorm


@pytest.mark.parametrize("network", LEFT_ALONE)
def test_a_norm_that_is_not_all_that_reads_its_convolution_stays(network):
    assert norms_left(fold_batch_norms(network())) == {"bn"}


def test_a_norm_without_statistics_stays():
    assert norms_left(fold_batch_norms(Pair(track_running_stats=False))) == {"bn"}
