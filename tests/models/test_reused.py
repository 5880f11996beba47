"""A network that ends in the classifier of another one."""

import pytest
import torch
from torch import nn

from mdistiller.errors import UserError
from mdistiller.models import build_model, canonical_name
from mdistiller.models.adapt import adapt
from mdistiller.models.folding import fold_batch_norms
from mdistiller.models.reused import Reused


def images(side=32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [32, 33, 64])
@pytest.mark.parametrize("name", ["resnet8+vgg8", "vgg8+resnet8x4", "MobileNetV2+ShuffleV1"])
def test_logits_are_the_classifier_s_of_the_projected_map_s_average(name, side):
    network = build_model("cifar100", name, 10).eval()
    logits, features = network(images(side))
    torch.testing.assert_close(features["pooled_feat"], features["final_map"].mean(dim=(2, 3)))
    torch.testing.assert_close(network.classifier(features["pooled_feat"]), logits)


def test_a_larger_final_map_is_pooled_to_the_other_s_size():
    other = build_model("cifar100", "vgg8", 10).eval()
    network = build_model("cifar100", "resnet8+vgg8", 10).eval()
    maps = [each(images())[1]["final_map"] for each in (network, other)]
    assert maps[0].shape == maps[1].shape


@pytest.mark.parametrize(("side", "reduction"), [(32, 2), (64, 4)])
def test_how_far_it_pools_is_saved(side, reduction):
    networks = (build_model("cifar100", name, 10) for name in ("resnet8", "vgg8"))
    trained, loaded = Reused(*networks, side), build_model("cifar100", "resnet8+vgg8", 10)
    loaded.load_state_dict(trained.state_dict())
    assert loaded.reduction == trained.reduction == reduction


def test_its_classifier_is_a_copy_of_the_other_s():
    other = build_model("cifar100", "resnet14", 10)
    network = Reused(build_model("cifar100", "resnet8", 10), other)
    assert torch.equal(network.classifier.weight, other.fc.weight) and network.classifier.weight is not other.fc.weight


def test_it_has_no_classifier_of_its_own():
    names = build_model("cifar100", "resnet8+resnet14", 10).state_dict()
    assert [name for name in names if "fc" in name] == []
    assert list(names)[-2:] == ["classifier.weight", "classifier.bias"]


def test_it_is_folded_as_other_networks():
    network = build_model("cifar100", "resnet8+resnet14", 10).double()
    network(images().double())
    network.eval()
    torch.testing.assert_close(fold_batch_norms(network)(images().double())[0], network(images().double())[0])


def test_its_projector_trains_on_a_map_of_one_cell_of_one_image():
    network = build_model("cifar100", "resnet8+resnet14", 10).train()
    assert network.projector(torch.randn(1, 64, 1, 1)).isfinite().all()


class Convolutional(nn.Module):
    """Classifies by a convolution of one pixel."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 10, 1)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3), keepdim=True)).flatten(1)


def test_a_network_of_others_gives_its_maps_without_its_classifier():
    shuffle = build_model("cifar100", "torchvision:shufflenet_v2_x0_5", 10)
    for own in (shuffle, adapt(Convolutional(), "mine", 10, 32)):
        network = Reused(own, build_model("cifar100", "resnet14", 10)).eval()
        assert network(images())[1]["final_map"].shape[1] == 64


def test_its_name_is_that_of_both():
    assert canonical_name("cifar100", "RESNET8+shufflenetv1") == "resnet8+ShuffleV1"


@pytest.mark.parametrize("name", ["resnet8+", "+resnet8", "resnet8+resnet9"])
def test_a_name_of_an_unknown_network_is_refused(name):
    with pytest.raises(UserError, match="unknown network"):
        canonical_name("cifar100", name)
