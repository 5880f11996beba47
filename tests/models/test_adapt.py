"""Networks of torchvision, timm and of a user as ones of ours."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.errors import UserError
from mdistiller.models import build_model, canonical_name, find_classifier
from mdistiller.models.adapt import adapt, attach
from mdistiller.models.folding import FoldedBatchNorm, fold_batch_norms
from tests.models.foreign import NETWORKS, build, images, outputs

SIZE = 64


@pytest.fixture(scope="module", params=NETWORKS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def network(name):
    return build(name, SIZE).eval()


def test_logits_and_names_of_tensors_are_the_library_s_own(name, network):
    own = build(name, SIZE, adapted=False).eval()
    assert list(own.state_dict()) == list(network.state_dict())
    own.load_state_dict(network.state_dict())
    torch.testing.assert_close(outputs(network)[0], torch.as_tensor(outputs(own)), rtol=1e-6, atol=1e-6)


def test_maps_get_smaller_and_their_channels_are_told(network):
    _, features = outputs(network)
    sides = [feat.shape[2] for feat in features["feats"]]
    assert sides == sorted(sides, reverse=True)
    assert network.get_stage_channels() == [feat.shape[1] for feat in features["feats"]]
    assert [feat.shape for feat in features["feats"]] == [feat.shape for feat in features["preact_feats"]]


def test_the_classifier_reads_the_pooled_feature(network):
    logits, features = outputs(network)
    heads = [head(features["pooled_feat"]) for head in network.contract.classifiers]
    if len(heads) == 1:  # with two, the second reads a token of its own
        torch.testing.assert_close(heads[0], logits)
    if "final_map" in features:
        torch.testing.assert_close(
            features["final_map"].mean(dim=(2, 3)), features["pooled_feat"], rtol=1e-4, atol=1e-4
        )


def test_a_copy_keeps_maps_of_its_own(network):
    twin = copy.deepcopy(network)
    expected = outputs(network)[1]["feats"][-1]
    with torch.no_grad():
        next(twin.parameters()).zero_()
    outputs(twin)
    torch.testing.assert_close(outputs(network)[1]["feats"][-1], expected)


def test_a_folded_network_gives_the_same_logits(network):
    logits = outputs(network)[0]
    torch.testing.assert_close(outputs(fold_batch_norms(network))[0], logits, rtol=1e-5, atol=1e-5)


def test_the_network_is_left_in_train_mode_with_its_statistics():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    network(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(network.state_dict())
    adapt(network.train(), "mine", 5, 8)
    assert network.training and all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:regnet_y_400mf"])
def test_every_batch_norm_of_plain_blocks_is_folded(name):
    folded = fold_batch_norms(build(name, SIZE))
    assert all(isinstance(m, FoldedBatchNorm) for m in folded.modules() if isinstance(m, nn.BatchNorm2d))


def test_maps_of_a_resnet_are_those_of_our_own():
    ours, theirs = build_model("imagenet", "ResNet18", 10).eval(), build("torchvision:resnet18", SIZE).eval()
    ours.load_state_dict(theirs.state_dict())
    for key in ("feats", "preact_feats"):
        for a, b in zip(outputs(ours)[1][key][1:], outputs(theirs)[1][key][1:], strict=True):
            torch.testing.assert_close(a, b)
    assert [n.num_features for n in theirs.get_bn_before_relu()] == [n.num_features for n in ours.get_bn_before_relu()]


class Functional(nn.Module):
    """Activations as functions, as many write them."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        self.given = x
        return self.fc(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def test_a_map_after_an_activation_that_is_no_module_is_what_the_next_module_gets():
    network = adapt(Functional(4), "mine", 4, 16).eval()
    _, features = outputs(network, 16)
    assert torch.equal(features["feats"][0], network.given)
    torch.testing.assert_close(features["final_map"].mean((2, 3)), features["pooled_feat"])


class Tokens(nn.Module):
    """A transformer whose tokens, with one for the class, are (tokens, batch, channels)."""

    def __init__(self, num_classes):
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, num_classes)
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 8) for _ in range(4)))

    def forward(self, x):
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        return self.fc(self.blocks(torch.cat([x[:1], x]))[0])


class TwoOutputs(Functional):
    def forward(self, x):
        return super().forward(x), {"mine": x}


class Auxiliary(Functional):
    """Other logits beside its own in training, as a second of two outputs."""

    def forward(self, x):
        logits = super().forward(x)
        return (logits, torch.zeros_like(logits)) if self.training else logits


class Noisy(Functional):
    """Draws random numbers, and counts the images it has seen."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x + torch.rand(()))


class Branches(nn.Module):
    """Two networks of which the logits are one classifier's."""

    def __init__(self, num_classes):
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, 8, 3, 2, padding) for padding in (0, 1))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.fc(torch.cat([F.relu(part(x)).mean((2, 3)) for part in self.parts], dim=1))


class ByKeyword(Functional):
    def forward(self, x):
        return self.fc(input=F.relu(self.bn1(self.conv1(input=x))).repeat(1, 2, 1, 1).mean((2, 3)))


class OneByOne(Functional):
    """Classifies by a convolution of one pixel."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc = nn.Conv2d(16, num_classes, 1)

    def forward(self, x):
        return self.fc(F.relu(self.bn2(self.conv2(self.conv1(x)))).mean((2, 3), keepdim=True)).flatten(1)


class Shallow(Functional):
    """Leaves a module out in training."""

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(x.repeat(1, 2, 1, 1).mean((2, 3)) if self.training else self.conv2(x).mean((2, 3)))


class Large(Functional):
    """Takes smaller images in evaluation than in training."""

    def forward(self, x):
        return super().forward(F.unfold(x, 20) * 0 if self.training and min(x.shape[2:]) < 20 else x)


class Product(Functional):
    """Classifies by a product with a parameter."""

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(self.conv1(x)))).mean((2, 3)) @ self.fc.weight.T


class Cosines(Functional):
    """Classifies by cosines."""

    def forward(self, x):
        pooled = F.relu(self.bn2(self.conv2(self.conv1(x)))).mean((2, 3))
        return F.linear(F.normalize(pooled), F.normalize(self.fc.weight))


class VectorsFirst(Functional):
    def forward(self, x):
        return self.conv1(x), x.mean((2, 3)), super().forward(x)


class ByAnotherName(Functional):
    def forward(self, x):
        return {"embedding": x.mean((2, 3)), "scores": super().forward(x)}


class WithFeatures(Functional):
    """Has the features of MDistiller's networks, and no `final_map`."""

    def forward(self, x):
        feat = self.bn1(self.conv1(x))
        return super().forward(x), {"feats": [feat], "preact_feats": [feat], "pooled_feat": feat.mean((2, 3))}

    def get_stage_channels(self):
        return [8]

    def get_bn_before_relu(self):
        return [self.bn1]


class NoClassifier(Functional):
    def forward(self, x):
        return self.conv2(self.conv1(x)).flatten(1)[:, :4]


@pytest.mark.parametrize(
    ("network", "classes", "size", "message"),
    [
        (Functional(4), 5, 16, r"mine returns logits \(2, 4\) for 2 images; expected logits \(2, 5\)"),
        (NoClassifier(4), 4, 16, "mine has no linear layer that gives 4 logits"),
        (nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten()), 4, 4, "mine takes no images of 4x4 pixels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), 4, 4, "mine has no maps of features"),
        (nn.Identity(), 4, 4, "mine returns logits"),
        (Functional(4).double(), 4, 16, "mine takes no images of 16x16 pixels .*double"),
    ],
)
def test_what_no_method_can_use_is_one_line(network, classes, size, message):
    with pytest.raises(UserError, match=message):
        adapt(network, "mine", classes, size)


@pytest.mark.parametrize("network", [TwoOutputs, VectorsFirst, ByAnotherName])
def test_of_several_outputs_the_logits_count(network):
    assert outputs(adapt(network(4), "mine", 4, 16).eval(), 16)[0].shape == (2, 4)


@pytest.mark.parametrize("network", [Product, Cosines])
def test_a_classifier_that_is_no_layer_leaves_the_average_of_the_last_map(network):
    network = adapt(network(4), "mine", 4, 16)
    _, features = outputs(network, 16)
    torch.testing.assert_close(features["pooled_feat"], features["feats"][-1].mean((2, 3)))
    assert "final_map" not in features


def test_tokens_before_images_are_maps():
    network = adapt(Tokens(4), "mine", 4, 16)
    last = network.blocks[-1].register_forward_hook(lambda module, args, output: setattr(network, "last", output))
    _, features = outputs(network, 16)
    last.remove()
    assert network.get_stage_channels() == [8] * 5
    assert torch.equal(features["feats"][-1].flatten(2), network.last[1:].permute(1, 2, 0))


def test_a_method_that_reads_a_classifier_that_is_no_layer_gets_one_line():
    with pytest.raises(UserError, match=r"mine has no linear layer that gives its logits.*such as KD, FitNet"):
        find_classifier(adapt(Product(4), "mine", 4, 16))


def test_a_network_with_features_of_its_own_stays_as_it_is():
    network = adapt(WithFeatures(4), "mine", 4, 16)
    assert type(network) is WithFeatures and not network.has_final_map


def test_norms_that_have_been_replaced_give_the_same_maps():
    network = adapt(Functional(4), "mine", 4, 16)
    expected = outputs(network, 16)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    attach(converted)
    torch.testing.assert_close(outputs(converted, 16), expected)


def test_auxiliary_logits_do_not_count():
    network = adapt(Auxiliary(4), "mine", 4, 16)
    assert network.train()(images(16))[0].abs().max() > 0


def test_random_numbers_and_buffers_are_as_before():
    network, state = Noisy(4), torch.get_rng_state()
    before = copy.deepcopy(network.state_dict())
    adapt(network, "mine", 4, 16)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_of_branches_the_first_gives_the_maps():
    _, features = outputs(adapt(Branches(4), "mine", 4, 17).eval(), 17)
    assert [feat.shape for feat in features["feats"]] == [(2, 8, 8, 8)] and features["pooled_feat"].shape == (2, 16)


def test_modules_may_be_called_by_keyword():
    logits, features = outputs(adapt(ByKeyword(4), "mine", 4, 16).eval(), 16)
    assert features["pooled_feat"].shape == (2, 16) and logits.shape == (2, 4)


def test_a_convolution_of_one_pixel_is_a_linear_layer():
    network = adapt(OneByOne(4), "mine", 4, 16)
    logits, features = outputs(network.eval(), 16)
    torch.testing.assert_close(network.contract.classifiers[0](features["final_map"].mean((2, 3))), logits)
    assert network.contract.classifiers[0].weight.shape == (4, 16)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Shallow(4), "mine does not always run the modules"),
        (Large(4), "mine, in training, takes no images of 16x16 pixels .*type DATASET.IMAGE_SIZE 32"),
    ],
)
def test_what_runs_but_cannot_be_trained_is_one_line(network, message):
    adapted = adapt(network, "mine", 4, 16)
    outputs(adapted.eval(), 16)
    with pytest.raises(UserError, match=message):
        adapted.train()(images(16))


def test_a_larger_size_that_fits_is_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 33), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    with pytest.raises(
        UserError, match=r"mine takes no images of 32x32 pixels .*it takes 64x64: type DATASET.IMAGE_SI"
    ):
        adapt(network, "mine", 4, 32)


def test_a_resnet_s_maps_begin_with_its_stem_and_end_with_its_last_stage():
    assert build("torchvision:resnet18", SIZE).get_stage_channels() == [64, 64, 128, 256, 512]


def test_a_network_of_one_resolution_lists_five_maps():
    assert build("torchvision:vit_b_16", SIZE).get_stage_channels() == [768] * 5


@pytest.mark.skipif("timm:regnety_002" not in NETWORKS, reason="needs timm")
def test_the_deepest_stage_is_there_where_a_stage_is_one_call_of_many():
    assert build("timm:regnety_002", SIZE).get_stage_channels() == [32, 24, 56, 152, 368]
    assert build("timm:convnext_atto", SIZE).get_stage_channels() == [40, 80, 160, 320]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", "torchvision has no network 'resnet19' .nearest: 'resnet18'"),
        ("torchvision:fcn_resnet50", "torchvision has no network 'fcn_resnet50'"),
        ("no/such.py:net", "no network file no/such.py"),
        ("resnet999", "unknown network 'resnet999'.*torchvision:NAME, timm:NAME and path/to/net.py:NAME"),
    ],
)
def test_an_unknown_network_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        canonical_name("cifar100", name)


SOURCE = """
from torch import nn
from parts import head

class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, width, 3, 2), head(width, num_classes)
    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))

def ten():
    return Net(10)

def nothing(num_classes):
    return num_classes
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "parts.py").write_text("from torch.nn import Linear as head")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    return path


def test_a_network_of_a_file_is_built_with_its_arguments_and_neighbours(file):
    network = build_model("cifar100", f"{file}:Net", 7, {"width": 6})
    assert network.get_stage_channels() == [6] and outputs(network, 32)[0].shape == (2, 7)


@pytest.mark.parametrize(
    ("own", "classes", "message"),
    [
        ("ten", 7, r"returns logits \(2, 10\) for 2 images; expected logits \(2, 7\)"),
        ("nothing", 7, "makes int; expected a torch.nn.Module"),
        ("Other", 7, "no class or function 'Other' in .*; there are .*Net, ten, nothing"),
    ],
)
def test_what_a_file_has_not_is_one_line(file, own, classes, message):
    with pytest.raises(UserError, match=message):
        build_model("cifar100", f"{file}:{own}", classes)


def test_a_network_without_num_classes_is_built(file):
    assert outputs(build_model("cifar100", f"{file}:ten", 10), 32)[0].shape == (2, 10)


def test_arguments_that_a_network_does_not_take_are_one_line():
    with pytest.raises(UserError, match=r"torchvision:resnet18 cannot be built: TypeError: .*'depths'"):
        build_model("cifar100", "torchvision:resnet18", 10, {"depths": 3})
    with pytest.raises(UserError, match="resnet8 takes no arguments"):
        build_model("cifar100", "resnet8", 10, {"depths": 3})


def test_a_compiled_network_gives_the_same_maps():
    network = build("torchvision:resnet18", SIZE).eval()
    expected = outputs(network)[1]["feats"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(network.forward, fullgraph=True, backend="eager")
        with torch.no_grad():
            _, features = compiled(images(SIZE))
    for a, b in zip(features["feats"], expected, strict=True):
        torch.testing.assert_close(a, b)
