"""Pictures like photographs, drawn from a seed: smooth light, shapes with sharp edges, and a camera's noise."""

import numpy as np
from PIL import Image, ImageDraw

from mdistiller.dataset import IMAGENET_WNIDS

CIFAR_CLASSES, CIFAR_IMAGES = ("apple", "bear", "crab", "dolphin", "elm"), {"train": 40, "test": 4}
# One a class: width and height, colour mode and file format; ImageNet's files, too, end in JPEG whatever they hold.
PHOTOGRAPHS = (
    ((500, 375), "RGB", "JPEG"),
    ((375, 500), "L", "JPEG"),
    ((333, 251), "RGB", "JPEG"),
    ((640, 97), "RGB", "PNG"),
    ((75, 61), "RGB", "JPEG"),
    ((256, 256), "CMYK", "JPEG"),
)


def draw_picture(seed, width, height):
    """A PIL image in RGB of `width` x `height` pixels; the same numbers always draw the same one."""
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = np.zeros((height, width, 3))
    for frequency in (1, 2, 5):
        along, across, phase = rng.uniform(-frequency, frequency, (3, 3))
        light += np.sin(2 * np.pi * (along * x[..., None] + across * y[..., None] + phase)) / frequency
    low, high = rng.uniform(0, 100, 3), rng.uniform(120, 255, 3)
    image = Image.fromarray((low + (high - low) * (light / 3.4 + 0.5).clip(0, 1)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for shape in ("ellipse", "rectangle", "ellipse", "triangle"):
        centre, radius = rng.uniform(0, 1, 2) * image.size, rng.uniform(0.08, 0.35, 2) * min(image.size)
        left, top, right, bottom = *(centre - radius), *(centre + radius)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        if shape == "triangle":
            draw.polygon([(left, bottom), (centre[0], top), (right, bottom)], colour)
        else:
            getattr(draw, shape)((left, top, right, bottom), colour)
    noise = rng.normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


def draw_samples(root):
    """Draw a part of CIFAR-100 and one of ImageNet below the folder `root`, laid out as the real samples are."""
    numbers = iter(range(1_000_000))
    for split, count in CIFAR_IMAGES.items():
        for name in CIFAR_CLASSES:
            folder = root / "cifar100_sample" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                draw_picture(next(numbers), 32, 32).save(folder / f"{number:02}.png")
    for wnid, (size, mode, file_format) in zip(IMAGENET_WNIDS[::10], PHOTOGRAPHS, strict=False):
        folder = root / "imagenet_sample" / "val" / wnid
        folder.mkdir(parents=True)
        draw_picture(next(numbers), *size).convert(mode).save(folder / f"{wnid}_drawn.JPEG", file_format)
