"""Part `loader`: small images augmented and normalised by one core, without workers; on CUDA also by the GPU."""

import itertools

import torch

from mdistiller.dataset import Loader

from ..plain_images import plain_loader
from ..report import Report, Row
from ..timing import CPU, alternate, one_thread
from ..workload import STATISTICS, random_images


def measure(flags):
    report, images, device = Report(), random_images(flags.images or 4096), CPU
    options = {"shuffle": True, "memory_format": torch.channels_last}
    with one_thread():
        for batch_size, augment in itertools.product(flags.batch_size, ("weak", "strong", "weak+strong")):
            loaders = {"PIL": plain_loader(images, batch_size, augment, workers=0)}
            loaders["ours"] = Loader(images, batch_size, *STATISTICS, augment, **options)
            if flags.device.type == "cuda":
                device = flags.device
                loaders["ours, on the GPU"] = Loader(images.to(device), batch_size, *STATISTICS, augment, **options)
            steps, count = len(loaders["ours"]), loaders["ours"].num_images_per_epoch
            what = f"{augment}, a core, batch {batch_size}"
            report.rows += time_loaders(what, loaders, steps, count, flags.repeats, device)
    return report


def time_loaders(what, loaders, steps, images, repeats, device=CPU):
    runs = {name: lambda loader=loader: [None for _ in loader] for name, loader in loaders.items()}
    seconds = alternate(runs, repeats, device)
    return [Row(what, name, value / steps, images / steps) for name, value in seconds.items()]
