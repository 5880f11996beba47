"""The two benchmarks: their networks and methods in published index order (append, never reorder)."""

from dataclasses import dataclass

from mdistiller.distillers import distiller_names


@dataclass(frozen=True)
class Benchmark:
    """models: the dataset of `build_model`, and the folder of presets below `configs/`; label: as in log names.

    folder: holds the scripts' `Utils`, below which they write.
    """

    models: str
    label: str
    folder: str
    students: tuple[str, ...]
    teachers: tuple[str, ...]
    methods: tuple[str, ...]

    @property
    def distillers(self) -> dict[int, str]:
        """Index to name of the methods; a published index keeps its place."""
        available = {name.upper() for name in distiller_names()}
        return {index: name for index, name in enumerate(self.methods) if name.upper() in available}


OTHER_METHODS = ("NST", "PKT", "SP", "VID", "KDSVD", "DIST", "NKD", "CTKD")

CIFAR100 = Benchmark(
    models="cifar100",
    label="cifar-100",
    folder="CIFAR-100",
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
    methods=(
        *("SKD", "KD", "DKD", "CLKD", "MLKD", "RKD", "ReviewKD", "OFD", "CRD", "FitNet", "SDD", "AT"),
        *OTHER_METHODS,
    ),
)

IMAGENET = Benchmark(
    models="imagenet",
    label="imagenet",
    folder="ImageNet",
    students=("ResNet18", "MobileNetV1", "ResNet34", "ResNet50", "ResNet101", "MobileNetV2"),
    teachers=("ResNet34", "ResNet50", "ResNet101", "ResNet18", "MobileNetV2", "MobileNetV1"),
    methods=(
        *("KD", "DKD", "CLKD", "MLKD", "AT", "SKD", "ReviewKD", "OFD", "RKD", "CRD", "FitNet", "SDD"),
        *OTHER_METHODS,
    ),
)

BENCHMARKS = {benchmark.models: benchmark for benchmark in (CIFAR100, IMAGENET)}
