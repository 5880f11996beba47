"""Every network with published numbers against the published implementation, in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.golden import fill
from tests.models.networks import GOLDEN, build

RTOL = 1e-8


@pytest.fixture(scope="module", params=GOLDEN)
def published(request):
    """The published numbers of one network."""
    return SimpleNamespace(path=request.param, **GOLDEN[request.param])


@pytest.fixture(scope="module")
def network(published):
    """Our network with the weights and running statistics behind the published numbers, in eval mode."""
    model = build(published.path, published.num_classes).double()
    fill.fill_(model.state_dict(), published.seed)
    fill.calibrate_(model, published.size, published.seed)
    return model.eval()


@pytest.fixture(scope="module")
def images(published):
    return fill.images(published.batch, published.size, published.seed)


@pytest.fixture(scope="module")
def outputs(network, images):
    """(logits, features) in eval mode."""
    with torch.no_grad():
        return network(images)


def assert_matches(tensor, summary):
    """`tensor` has the shape, mean, unbiased deviation and first numbers of `summary`."""
    assert list(tensor.shape) == summary["shape"]
    scale = abs(tensor).max().item()
    summarised = [tensor.mean().item(), tensor.std().item(), *tensor.flatten()[: len(summary["head"])].tolist()]
    np.testing.assert_allclose(
        summarised, [summary["mean"], summary["std"], *summary["head"]], rtol=RTOL, atol=RTOL * 1e-2 * scale
    )


def test_state_dict_has_the_published_names_in_order(network, published):
    assert list(network.state_dict()) == list(published.state_dict)


def test_state_dict_has_the_published_shapes(network, published):
    assert {name: list(entry.shape) for name, entry in network.state_dict().items()} == published.state_dict


def test_parameter_count_is_the_published_one(network, published):
    assert sum(parameter.numel() for parameter in network.parameters()) == published.params


def test_eval_logits(outputs, published):
    classes = len(published.logits[0])  # of ImageNet the first ones only
    np.testing.assert_allclose(outputs[0][:, :classes].numpy(), published.logits, rtol=RTOL, atol=1e-10)


def test_train_logits(network, images, published):
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    with torch.no_grad():
        logits, _ = network(images)
    network.eval().load_state_dict(statistics, strict=False)
    assert_matches(logits, published.logits_train)


def test_pooled_feature(outputs, published):
    assert_matches(outputs[1]["pooled_feat"], published.pooled_feat)


def test_feature_maps(outputs, published):
    feats = outputs[1]["feats"]
    assert len(feats) == len(published.feats)
    for feat, summary in zip(feats, published.feats, strict=True):
        assert_matches(feat, summary)


def test_preactivation_maps(outputs, published):
    if published.preact_feats:  # the published MobileNetV2 has none
        preact_feats = outputs[1]["preact_feats"]
        assert len(preact_feats) == len(published.preact_feats)
        for preact, summary in zip(preact_feats, published.preact_feats, strict=True):
            assert_matches(preact, summary)


def test_batch_norm_widths(network, published):
    """The published ShuffleNets have none, the published ImageNet ResNets none of the first stage."""
    if published.bn_before_relu_channels:
        widths = [norm.num_features for norm in network.get_bn_before_relu()]
        assert widths[-len(published.bn_before_relu_channels) :] == published.bn_before_relu_channels
