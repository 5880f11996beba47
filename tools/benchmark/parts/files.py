"""Part `files`: photographs decoded, cropped, mirrored and normalised by one core, in batches on the CPU."""

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import FileLoader

from ..report import Report
from ..timing import one_thread
from ..workload import statistics_of
from .loader import time_loaders


class PlainFiles(Dataset):
    """The plain way to read photographs: one at a time, by PIL and torchvision's transforms v1."""

    def __init__(self, files, image_size, mean, std):
        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        with Image.open(self.files.path(row)) as file:
            return self.transform(file.convert("RGB")), self.files.targets[row].item()


def measure(flags):
    report, files, statistics = Report(), find_images(flags.root, "test"), statistics_of("imagenet")
    with one_thread():
        for batch_size in flags.batch_size:
            plain = DataLoader(PlainFiles(files, flags.image_size, *statistics), batch_size, shuffle=True)
            ours = FileLoader(
                files, batch_size, *statistics, flags.image_size, augment="weak", shuffle=True,
                memory_format=torch.channels_last,
            )  # fmt: skip
            loaders = {"PIL, transforms v1": plain, "ours": ours}
            report.rows += time_loaders("photographs, a core", loaders, len(plain), len(files), flags.repeats)
    return report
