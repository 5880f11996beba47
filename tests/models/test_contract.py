"""What every network promises to the distillers, the trainer and the compiler."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.models.networks import ALL, ONE_PER_FAMILY, build, images_for, random_images

LINEAR_OR_SHUFFLED = ("cifar100/wrn", "cifar100/MobileNetV2", "cifar100/ShuffleV2", "imagenet/MobileNetV2")
BORDERED = "tiny_imagenet/MobileNetV2"  # its stem adds a pixel on every side
RELU_NETWORKS = [path for path in ALL if not path.startswith((*LINEAR_OR_SHUFFLED, BORDERED))]
one_per_family = pytest.mark.parametrize("path", ONE_PER_FAMILY)


@torch.no_grad()
def eval_outputs(path, batch):
    return build(path).eval()(images_for(path, batch))


def batch_norms(network):
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture(scope="module", params=ALL)
def path(request):
    return request.param


@pytest.fixture(scope="module")
def network(path):
    return build(path).eval()


@pytest.fixture(scope="module")
def outputs(path, network):
    """(logits, features) of an odd batch, in eval mode."""
    with torch.no_grad():
        return network(images_for(path, 3))


@pytest.fixture(scope="module")
def features(outputs):
    return outputs[1]


def test_features_have_the_promised_keys(features):
    assert set(features) == {"feats", "preact_feats", "final_map", "pooled_feat"}


def test_each_feature_map_has_a_preactivation_of_its_shape(features):
    assert [feat.shape for feat in features["feats"]] == [preact.shape for preact in features["preact_feats"]]


def test_stage_channels_are_those_of_the_feature_maps(network, features):
    assert network.get_stage_channels() == [feat.shape[1] for feat in features["feats"]]


def test_each_preactivation_but_the_stem_has_a_batch_norm_of_its_width(path, network, features):
    norms = network.get_bn_before_relu()
    stages = features["preact_feats"][0 if path == "imagenet/MobileNetV1" else 1 :]  # MobileNetV1 lists no stem
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in norms)
    assert [norm.num_features for norm in norms] == [preact.shape[1] for preact in stages]


def test_pooled_feature_is_what_the_classifier_reads(network, outputs):
    logits, features = outputs
    classifier = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(classifier(features["pooled_feat"]), logits)


def test_pooled_feature_is_the_global_average_of_the_final_map(features):
    torch.testing.assert_close(features["final_map"].mean(dim=(2, 3)), features["pooled_feat"])


def test_one_image_alone_gives_the_features_it_has_in_a_batch(path, network, features):
    with torch.no_grad():
        _, alone = network(images_for(path, 3)[:1])
    pooled = features["pooled_feat"][:1]
    torch.testing.assert_close(alone["pooled_feat"], pooled, rtol=1e-4, atol=1e-5 * pooled.max().item())


def test_larger_images_double_the_maps_and_keep_the_pooled_width(path, network, features):
    with torch.no_grad():
        _, larger = network(random_images(1, size=2 * images_for(path, 1).shape[2]))
    assert larger["pooled_feat"].shape[1] == features["pooled_feat"].shape[1]
    sides = [feat.shape[2] for feat in features["feats"]]
    if type(network).__name__ == "VGG":
        sides[-1] //= 2  # pooled once more
    larger_sides = [2 * side for side in sides]
    if path == BORDERED:
        larger_sides = [2 * sides[0] - 2, *(2 * side - 1 for side in sides[1:])]
    assert [feat.shape[2:] for feat in larger["feats"]] == [(side, side) for side in larger_sides]


def test_one_training_step_moves_running_statistics_once(path, network):
    network = copy.deepcopy(network).train()
    with torch.no_grad():
        network(images_for(path, 2))
    assert {norm.num_batches_tracked.item() for norm in batch_norms(network)} == {1}


@pytest.mark.parametrize("path", RELU_NETWORKS)
def test_feature_maps_are_the_relu_of_the_preactivations(path):
    _, features = eval_outputs(path, 1)
    for feat, preact in zip(features["feats"], features["preact_feats"], strict=True):
        assert torch.equal(feat, F.relu(preact))
    assert all((preact < 0).any() for preact in features["preact_feats"][1:])


def test_wrn_preactivations_are_the_normalised_feature_maps():
    network = build("cifar100/wrn_16_2").eval()
    with torch.no_grad():
        _, features = network(random_images(2))
        for norm, feat, preact in zip(
            network.get_bn_before_relu(), features["feats"][1:], features["preact_feats"][1:], strict=True
        ):
            assert torch.equal(norm(feat), preact)


@pytest.mark.parametrize(("path", "relu"), [("cifar100/MobileNetV2", F.relu), ("imagenet/MobileNetV2", F.relu6)])
def test_mobilenetv2_block_outputs_are_linear(path, relu):
    _, features = eval_outputs(path, 2)
    stem, *blocks = features["feats"]
    stem_preact, *block_preacts = features["preact_feats"]
    assert torch.equal(stem, relu(stem_preact)) and (stem_preact < 0).any()
    assert all(feat is preact for feat, preact in zip(blocks, block_preacts, strict=True))


def test_tiny_imagenets_mobilenetv2_has_linear_blocks_between_two_activations():
    _, features = eval_outputs(BORDERED, 2)
    (stem, *blocks, last), (stem_preact, *block_preacts, last_preact) = features["feats"], features["preact_feats"]
    assert torch.equal(stem, F.relu6(stem_preact)) and (stem_preact < 0).any()
    assert torch.equal(last, F.relu6(last_preact)) and (last_preact < 0).any()
    assert last is features["final_map"]
    assert all(feat is preact for feat, preact in zip(blocks, block_preacts, strict=True))


@pytest.mark.parametrize("name", ["ResNet18", "ResNet50"])
def test_imagenet_resnet_lists_its_stem_before_max_pooling(name):
    _, features = eval_outputs(f"imagenet/{name}", 1)
    assert [feat.shape[2] for feat in features["feats"]] == [32, 16, 8, 4, 2]


def test_dropout_spares_the_pooled_feature():
    network = build("imagenet/MobileNetV2")
    with torch.no_grad():
        _, features = network(random_images(2, size=64))
    torch.testing.assert_close(features["final_map"].mean(dim=(2, 3)), features["pooled_feat"])


def test_shufflenetv2_feature_maps_are_the_shuffled_relu_of_the_preactivations():
    _, features = eval_outputs("cifar100/ShuffleV2", 2)
    for feat, preact in zip(features["feats"][1:], features["preact_feats"][1:], strict=True):
        left, right = F.relu(preact).chunk(2, dim=1)
        assert torch.equal(feat[:, 0::2], left)
        assert torch.equal(feat[:, 1::2], right)


def test_shufflenetv2_batch_norms_belong_to_the_channels_of_the_preactivations():
    network = build("cifar100/ShuffleV2").eval()
    for norm in batch_norms(network):  # a norm of weight 0 gives its bias, whatever the image
        nn.init.zeros_(norm.weight)
        nn.init.uniform_(norm.bias, 0.5, 1.5)
    with torch.no_grad():
        _, features = network(random_images(1))
    for norm, preact in zip(network.get_bn_before_relu(), features["preact_feats"][1:], strict=True):
        assert torch.equal(norm.bias, preact[0, :, 1, 1])


def test_shufflenetv2_batch_norms_agree_in_every_parameter_and_statistic():
    network = build("cifar100/ShuffleV2")
    for norm in batch_norms(network):
        values = torch.rand(norm.num_features)
        norm.load_state_dict(dict.fromkeys(("weight", "bias", "running_mean", "running_var"), values), strict=False)
    for norm in network.get_bn_before_relu():
        assert all(torch.equal(norm.weight, field) for field in (norm.bias, norm.running_mean, norm.running_var))


@one_per_family
def test_every_feature_carries_a_gradient_to_the_first_layer(path):
    network = build(path)
    _, features = network(images_for(path, 2))
    first_weight = next(network.parameters())
    for feature in [*features["feats"], *features["preact_feats"], features["final_map"], features["pooled_feat"]]:
        (gradient,) = torch.autograd.grad(feature.square().mean(), first_weight, retain_graph=True)
        assert gradient.any()


@one_per_family
def test_channels_last_gives_the_same_training_step(path):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = build(path).double().to(memory_format=memory_format)
        logits, _ = network(images_for(path, 2).double().to(memory_format=memory_format))
        logits.square().sum().backward()
        results.append((logits, next(network.parameters()).grad))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)


@one_per_family
def test_compiles_to_one_graph_with_equal_outputs(path):
    torch.compiler.reset()
    network = build(path).eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images_for(path, 2)), network(images_for(path, 2)))


@pytest.mark.parametrize("path", ["cifar100/resnet8", "cifar100/ShuffleV2", "imagenet/MobileNetV2"])
def test_compiled_training_moves_running_statistics_once(path):
    torch.compiler.reset()
    network = build(path)
    logits, _ = torch.compile(network, fullgraph=True, backend="aot_eager")(images_for(path, 2))
    logits.sum().backward()
    assert {norm.num_batches_tracked.item() for norm in batch_norms(network)} == {1}
