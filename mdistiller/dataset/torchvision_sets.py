"""The classification sets of torchvision that DATASET.TYPE takes, a row each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CIFAR100_STATISTICS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
BY_NAME = {"train": {"split": "train"}, "test": {"split": "test"}}
WITH_VAL = {**BY_NAME, "val": {"split": "val"}}
# In the order of the labels; of a copy, its own file tells them.
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split()
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"


@dataclass(frozen=True)
class TorchvisionSet:
    """How a class of torchvision reads a set, and what of the set is fixed.

    title: as its authors call it; source: the class; splits: the arguments that make it "train", "test" and, where
    there are images to choose by, "val"; num_classes: of a complete copy.
    url: what the addresses of `archives`, paths below the root, begin with; folder: where they are unpacked to, below
    the root; read: patterns, below `folder`, of what the class opens beside images.
    image_size: a side, in pixels, or 0 for photographs; mean, std: of the training images as commonly used, of
    photographs ImageNet's.
    paths: the class's attribute with the paths of the images, or with these and their labels; empty where it holds
    pixels. classes: their names, where the class has none; package: that it needs beside torchvision.
    """

    title: str
    source: str
    splits: Mapping[str, Mapping[str, Any]]
    num_classes: int
    url: str
    archives: tuple[str, ...]
    folder: str = ""
    read: tuple[str, ...] = ()
    image_size: int = 0
    mean: tuple[float, ...] = IMAGENET_STATISTICS[0]
    std: tuple[float, ...] = IMAGENET_STATISTICS[1]
    paths: str = ""
    classes: Sequence[str] = ()
    package: str = ""


def _as_mnist(title, source, url, mean, std):
    """The row of a set whose files are as those of MNIST."""
    folder = f"{source}/raw"
    files = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return TorchvisionSet(
        title,
        source,
        BY_FLAG,
        10,
        url,
        archives=tuple(f"{folder}/{name}.gz" for name in files),
        folder=folder,
        read=("*-ubyte", "../processed/*.pt"),
        image_size=32,  # of 28 pixels, which the networks for CIFAR are not made for
        mean=3 * (mean,),
        std=3 * (std,),
    )


# By DATASET.TYPE.
TORCHVISION_SETS = {
    "cifar100": TorchvisionSet(
        "CIFAR-100",
        "CIFAR100",
        BY_FLAG,
        100,
        "https://www.cs.toronto.edu/~kriz/",
        archives=("cifar-100-python.tar.gz",),
        folder="cifar-100-python",
        read=("train", "test", "meta"),
        image_size=32,
        mean=CIFAR100_STATISTICS[0],
        std=CIFAR100_STATISTICS[1],
    ),
    "cifar10": TorchvisionSet(
        "CIFAR-10",
        "CIFAR10",
        BY_FLAG,
        10,
        "https://www.cs.toronto.edu/~kriz/",
        archives=("cifar-10-python.tar.gz",),
        folder="cifar-10-batches-py",
        read=("*batch*",),
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "svhn": TorchvisionSet(
        "SVHN",
        "SVHN",
        BY_NAME,
        10,
        "http://ufldl.stanford.edu/housenumbers/",
        archives=("train_32x32.mat", "test_32x32.mat"),
        image_size=32,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        classes=tuple("0123456789"),
        package="scipy",
    ),
    "stl10": TorchvisionSet(
        "STL-10",
        "STL10",
        BY_NAME,
        10,
        "http://ai.stanford.edu/~acoates/stl10/",
        archives=("stl10_binary.tar.gz",),
        folder="stl10_binary",
        read=("*.bin", "*.txt"),
        image_size=96,
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    ),
    "mnist": _as_mnist("MNIST", "MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/", 0.1307, 0.3081),
    "fashionmnist": _as_mnist(
        "Fashion-MNIST", "FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", 0.2860, 0.3530
    ),
    "kmnist": _as_mnist("KMNIST", "KMNIST", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/", 0.1918, 0.3483),
    "gtsrb": TorchvisionSet(
        "GTSRB",
        "GTSRB",
        BY_NAME,
        43,
        "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
        archives=(
            "gtsrb/GTSRB-Training_fixed.zip",
            "gtsrb/GTSRB_Final_Test_Images.zip",
            "gtsrb/GTSRB_Final_Test_GT.zip",
        ),
        folder="gtsrb",
        read=("*.csv",),
        image_size=32,
        mean=(0.3403, 0.3121, 0.3214),
        std=(0.2724, 0.2608, 0.2669),
        paths="_samples",
        classes=tuple(f"{number:05}" for number in range(43)),
    ),
    "flowers102": TorchvisionSet(
        "Flowers-102",
        "Flowers102",
        WITH_VAL,
        102,
        f"{OXFORD}/flowers/102/",
        archives=("flowers-102/102flowers.tgz", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        folder="flowers-102",
        read=("*.mat",),
        paths="_image_files",
        package="scipy",
    ),
    "food101": TorchvisionSet(
        "Food-101",
        "Food101",
        BY_NAME,
        101,
        "http://data.vision.ee.ethz.ch/cvl/",
        archives=("food-101.tar.gz",),
        folder="food-101",
        read=("meta/*.json",),
        paths="_image_files",
    ),
    "oxford_pets": TorchvisionSet(
        "Oxford-IIIT Pet",
        "OxfordIIITPet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        37,
        f"{OXFORD}/pets/data/",
        archives=("oxford-iiit-pet/images.tar.gz", "oxford-iiit-pet/annotations.tar.gz"),
        folder="oxford-iiit-pet",
        read=("annotations/*.txt",),
        paths="_images",
    ),
    "dtd": TorchvisionSet(
        "DTD",
        "DTD",
        WITH_VAL,
        47,
        f"{OXFORD}/dtd/download/",
        archives=("dtd/dtd-r1.0.1.tar.gz",),
        folder="dtd",
        read=("dtd/labels/*.txt",),
        paths="_image_files",
    ),
    "fgvc_aircraft": TorchvisionSet(
        "FGVC-Aircraft",
        "FGVCAircraft",
        WITH_VAL,
        100,
        f"{OXFORD}/fgvc-aircraft/archives/",
        archives=("fgvc-aircraft-2013b.tar.gz",),
        folder="fgvc-aircraft-2013b",
        read=("data/*.txt",),
        paths="_image_files",
    ),
    "country211": TorchvisionSet(
        "Country211",
        "Country211",
        {**BY_NAME, "val": {"split": "valid"}},
        211,
        "https://openaipublic.azureedge.net/clip/data/",
        archives=("country211.tgz",),
        folder="country211",
        paths="samples",
    ),
}
