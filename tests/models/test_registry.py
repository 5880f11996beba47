"""Names, aliases, errors and published weight files."""

import pytest
import torch

from mdistiller.errors import UserError
from mdistiller.models import build_model, canonical_name, model_names
from tests.models.networks import CIFAR_NAMES, PUBLISHED, random_images


@pytest.mark.parametrize("dataset", ["cifar100", "tiny_imagenet"])
def test_every_published_network_is_there(dataset):
    assert set(PUBLISHED) <= set(model_names(dataset))


def test_imagenet_names_are_in_order():
    published = ["ResNet18", "ResNet34", "ResNet50", "ResNet101", "MobileNetV1", "MobileNetV2"]
    assert [name for name in model_names("imagenet") if name in published] == published


@pytest.mark.parametrize(
    ("dataset", "alias", "name"),
    [
        ("cifar100", "shufflenetv1", "ShuffleV1"),
        ("cifar100", "shufflenetv2", "ShuffleV2"),
        ("cifar100", "mobilenetv2", "MobileNetV2"),
        ("imagenet", "mobilenetv2", "MobileNetV2"),
    ],
)
def test_alias_stands_for_the_canonical_name(dataset, alias, name):
    assert canonical_name(dataset, alias) == name
    assert type(build_model(dataset, alias, 10)) is type(build_model(dataset, name, 10))


def test_letter_case_of_a_name_does_not_count():
    assert canonical_name("cifar100", "resnet50") == "ResNet50"
    assert canonical_name("imagenet", "resnet34") == "ResNet34"


def test_canonical_name_of_a_network_is_itself():
    assert [canonical_name("cifar100", name) for name in CIFAR_NAMES] == CIFAR_NAMES


def test_tiny_imagenet_has_the_names_of_cifar_and_one_network_of_its_own():
    assert model_names("tiny_imagenet") == CIFAR_NAMES
    classes = {
        name: [type(build_model(dataset, name, 10)) for dataset in ("cifar100", "tiny_imagenet")]
        for name in CIFAR_NAMES
    }
    assert [name for name, (cifar, tiny) in classes.items() if cifar is not tiny] == ["MobileNetV2"]


def test_tiny_imagenets_mobilenetv2_is_mdistillers():
    network = build_model("tiny_imagenet", "mobilenetv2", 200)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_497_480
    assert network.state_dict()["conv2.weight"].shape == (200, 1280, 1, 1)


def test_tiny_imagenet_logits_have_one_column_a_class():
    logits, _ = build_model("tiny_imagenet", "resnet8", num_classes=200)(random_images(2, size=64))
    assert logits.shape == (2, 200)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet57", "resnet56"), ("VGG-13", "vgg13"), ("shufflev3", "ShuffleV2")],
)
def test_unknown_network_names_the_nearest(name, nearest):
    with pytest.raises(UserError, match=rf"unknown network '{name}'.*nearest: '{nearest}'"):
        build_model("cifar100", name, 100)


def test_unknown_network_lists_the_valid_ones_in_one_line():
    with pytest.raises(UserError) as error:
        build_model("cifar100", "transformer", 100)
    message = str(error.value)
    assert "\n" not in message
    assert all(name in message for name in model_names("cifar100"))


def test_unknown_dataset_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown dataset 'cifar-100'.*nearest: 'cifar100'"):
        model_names("cifar-100")


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56", "wrn_16_2"])
def test_published_weights_load(name, shared):
    path = shared / "checkpoints" / f"best_model_weights_{name}.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    build_model("cifar100", name, num_classes=100).load_state_dict(weights, strict=True)
