"""The two benchmarks: their networks and methods in published index order (append, never reorder)."""

from dataclasses import dataclass

from mdistiller.dataset import DATASETS
from mdistiller.distillers import DISTILLERS, PUBLISHED_INDICES


@dataclass(frozen=True)
class Benchmark:
    """models: the dataset of `build_model`, and the folder of presets below `configs/`; label: as in log names.

    side: of the images, in pixels, that its networks are made for.
    folder: holds the scripts' `Utils`, below which they write. published: the first methods, whose places are fixed.
    variants: other datasets of `build_model`, with the same names, whose networks are trained on data of that type.
    """

    models: str
    label: str
    folder: str
    side: int
    students: tuple[str, ...]
    teachers: tuple[str, ...]
    published: tuple[str, ...]
    variants: tuple[str, ...] = ()

    def models_for(self, data_type: str) -> str:
        """The dataset of `build_model` whose networks are trained on data of DATASET.TYPE `data_type`."""
        return data_type if data_type in self.variants else self.models

    @property
    def distillers(self) -> dict[int, str]:
        """Index to name of the methods: the published ones, then each where its class says."""
        later = {method.index: method.__name__ for method in DISTILLERS.values() if method.index is not None}
        return {**dict(enumerate(self.published)), **dict(sorted(later.items()))}


CIFAR100 = Benchmark(
    models="cifar100",
    label="cifar-100",
    folder="CIFAR-100",
    side=32,
    students=(
        *("resnet32", "resnet8x4", "resnet20", "ShuffleV1", "ShuffleV2", "vgg8", "wrn_40_1", "wrn_16_2", "MobileNetV2"),
        *("resnet8", "resnet14", "resnet44", "resnet56", "resnet110", "resnet32x4", "wrn_16_1", "wrn_40_2"),
        *("vgg11", "vgg13", "vgg16", "vgg19", "ResNet18", "ResNet50"),
    ),
    teachers=(
        *("resnet32x4", "resnet56", "resnet110", "vgg13", "wrn_40_2", "ResNet50"),
        *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet8x4", "wrn_16_1", "wrn_16_2", "wrn_40_1"),
        *("vgg8", "vgg11", "vgg16", "vgg19", "ResNet18", "MobileNetV2", "ShuffleV1", "ShuffleV2"),
    ),
    published=("SKD", "KD", "DKD", "CLKD", "MLKD", "RKD", "ReviewKD", "OFD", "CRD", "FitNet", "SDD", "AT"),
    variants=("tiny_imagenet",),
)

IMAGENET = Benchmark(
    models="imagenet",
    label="imagenet",
    folder="ImageNet",
    side=224,
    students=("ResNet18", "MobileNetV1", "ResNet34", "ResNet50", "ResNet101", "MobileNetV2"),
    teachers=("ResNet34", "ResNet50", "ResNet101", "ResNet18", "MobileNetV2", "MobileNetV1"),
    published=("KD", "DKD", "CLKD", "MLKD", "AT", "SKD", "ReviewKD", "OFD", "RKD", "CRD", "FitNet", "SDD"),
)

BENCHMARKS = {benchmark.models: benchmark for benchmark in (CIFAR100, IMAGENET)}
assert {len(benchmark.published) for benchmark in BENCHMARKS.values()} == {PUBLISHED_INDICES}


def benchmark_of(data_type: str, network: str | None = None) -> Benchmark:
    """The benchmark whose networks data of DATASET.TYPE `data_type` is for, where nothing else says which.

    Images of any size are for ImageNet's networks, but where `network` is one of CIFAR-100's alone.
    """
    of_cifar, of_imagenet = ({name.lower() for name in each.students} for each in (CIFAR100, IMAGENET))
    is_of_any_size = data_type in DATASETS and DATASETS[data_type].image_size == 0
    if is_of_any_size and (network or "").lower() not in of_cifar - of_imagenet:
        return IMAGENET
    return BENCHMARKS.get(data_type, CIFAR100)
