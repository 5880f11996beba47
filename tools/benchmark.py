"""Measure how fast this project is beside the plain way, in one run; prints a table. --help lists the parts."""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdistiller.dataset import DATASETS
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import FileLoader
from mdistiller.engine.tables import align


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


def seconds_of(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternate(runs, repeats):
    """Median seconds of each of `runs`, {name: function}, which take turns; one round before them is not counted."""
    times = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            seconds = seconds_of(run)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_files(flags):
    """Photographs decoded, cropped, mirrored and normalised by one core, in batches on the CPU."""
    torch.set_num_threads(1)
    files, settings = find_images(flags.images, "test"), DATASETS["imagenet"]
    statistics_of = settings["MEAN"], settings["STD"]
    plain = DataLoader(PlainFiles(files, flags.image_size, *statistics_of), flags.batch_size, shuffle=True)
    ours = FileLoader(
        files, flags.batch_size, *statistics_of, flags.image_size, augment="weak", shuffle=True,
        memory_format=torch.channels_last,
    )  # fmt: skip
    runs = {"PIL, transforms v1": lambda: list(map(len, plain)), "ours": lambda: list(map(len, ours))}
    seconds = alternate(runs, flags.repeats)
    return [("photographs, images/s a core", name, len(files) / seconds[name]) for name in runs]


PARTS = {"files": measure_files}


def table_of(rows):
    """Rows of (what, way, rate) as text; of the ways to do the same the first is what the others are compared with."""
    lines, plain = [("what", "way", "rate", "ratio")], {}
    for what, way, rate in rows:
        lines.append((what, way, f"{rate:.1f}", f"{rate / plain.setdefault(what, rate):.2f}"))
    return align(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, default="files")
    parser.add_argument("--images", metavar="ROOT", default="data/imagenet", help="photographs, in ROOT/val/<class>/")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    print(table_of(PARTS[flags.part](flags)))


if __name__ == "__main__":
    main()
