"""The embedded data set: pictures drawn from a seed, so that everything runs without a download.

A class is a shape, a colour and a texture. Place, size, tilt, hue and contrast vary from picture to picture, over a
cluttered background, partly behind a smaller object of another class, under noise: with a few epochs of a few thousand
pictures, small networks stay well below larger ones.
"""

import itertools
import math

import numpy as np
import torch

from mdistiller.dataset.images import ImageSet
from mdistiller.errors import UserError

SIZE = 32
SHAPES = ("disc", "square", "triangle", "star")
COLOURS = {"red": 0.0, "green": 1 / 3, "blue": 2 / 3}
TEXTURES = ("plain", "striped", "checked")
HUE_SPREAD = 0.06  # of a turn; standard deviation
TILT = 0.5  # radians to either side
NOISE = 0.04
CHUNK = 512


def draw_synthetic(count: int, seed: int, split: str) -> ImageSet:
    """Draw `count` pictures of the split "train" or "test"; the classes take turns.

    The images are uint8 (count, 3, 32, 32). They depend on the arguments alone, and the splits use independent random
    streams. Raises `UserError` when `count` is below one.
    """
    if count < 1:
        raise UserError(f"{count} {split} images: expected 1 or more; set DATASET.SYNTHETIC.{split.upper()}_IMAGES")
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    kinds = np.array(list(itertools.product(range(len(SHAPES)), range(len(COLOURS)), range(len(TEXTURES)))))
    targets = np.arange(count) % len(kinds)
    images = np.concatenate([_draw(kinds, targets[i : i + CHUNK], rng) for i in range(0, count, CHUNK)])
    names = itertools.product(SHAPES, COLOURS, TEXTURES)
    classes = [f"{texture} {colour} {shape}" for shape, colour, texture in names]
    return ImageSet(torch.from_numpy(images), torch.from_numpy(targets), classes)


def _draw(kinds, targets, rng):
    """One picture for each target: uint8 (n, 3, 32, 32)."""
    canvas = _background(len(targets), rng)
    canvas = _paint(canvas, kinds[targets], rng, radius=(0.45, 0.8), offset=0.2)
    distractors = kinds[rng.integers(len(kinds), size=len(targets))]
    canvas = _paint(canvas, distractors, rng, radius=(0.1, 0.24), offset=0.9)
    canvas += rng.normal(0, NOISE, canvas.shape)
    return (canvas.clip(0, 1) * 255).astype(np.uint8)


def _uniform(rng, low, high, count):
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def _grid():
    """Pixel centres in -1..1: x (1, 1, 32) and y (1, 32, 1)."""
    ticks = (np.arange(SIZE, dtype=np.float32) + 0.5) * (2 / SIZE) - 1
    return ticks[None, None, :], ticks[None, :, None]


def _background(count, rng):
    """Two colours mixed by a sum of three random waves. Returns float32 (count, 3, 32, 32) in 0..1."""
    x, y = _grid()
    mix = np.zeros((count, SIZE, SIZE), np.float32)
    for frequency in (2, 4, 8):
        angle = _uniform(rng, 0, 2 * math.pi, count)
        phase = _uniform(rng, 0, 2 * math.pi, count)
        mix += np.sin(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase) / 6
    first, second = rng.uniform(0.2, 0.8, (2, count, 3, 1, 1)).astype(np.float32)
    mix = mix[:, None] + 0.5
    return first * mix + second * (1 - mix)


def _paint(canvas, kinds, rng, radius, offset):
    """`canvas` with one object on each image; kinds: (n, 3), the indices of their shapes, colours and textures."""
    count = len(canvas)
    shape, colour, texture = (kinds[:, column].reshape(-1, 1, 1) for column in range(3))
    x, y = _grid()
    size, angle = _uniform(rng, radius[0], radius[1], count), _uniform(rng, -TILT, TILT, count)
    x, y = x - _uniform(rng, -offset, offset, count), y - _uniform(rng, -offset, offset, count)
    u = (np.cos(angle) * x + np.sin(angle) * y) / size
    v = (np.cos(angle) * y - np.sin(angle) * x) / size
    coverage = np.clip(0.5 - _outside(shape, u, v) * size * (SIZE / 2), 0, 1)
    shade = _texture(texture, u, v, _uniform(rng, 0, 2 * math.pi, count))
    hue = np.array(list(COLOURS.values()), np.float32)[colour] + rng.normal(0, HUE_SPREAD, colour.shape)
    saturation, value = _uniform(rng, 0.5, 0.9, count), _uniform(rng, 0.5, 1, count)
    dark = _uniform(rng, 0.4, 0.8, count)
    value = value * (1 - shade * dark)
    rgb = _hsv_to_rgb(hue.astype(np.float32), saturation, value)
    coverage = (coverage * _uniform(rng, 0.8, 1, count))[:, None]
    return canvas * (1 - coverage) + rgb * coverage


def _outside(shape, u, v):
    """About the distance outside the outline, in units of the radius; negative inside."""
    r, theta = np.hypot(u, v), np.arctan2(v, u)

    def polygon(sides):
        return r * np.cos(theta % (2 * math.pi / sides) - math.pi / sides) - math.cos(math.pi / sides)

    star = r - 0.68 - 0.32 * np.cos(5 * theta)
    return np.choose(shape, [r - 0.9, polygon(4), polygon(3), star])


def _texture(texture, u, v, phase):
    """How far the darker shade shows, 0 or 1."""
    stripes = np.sin(9 * u + phase) > 0
    checks = stripes ^ (np.sin(9 * v + phase) > 0)
    return np.choose(texture, [np.zeros_like(stripes), stripes, checks]).astype(np.float32)


def _hsv_to_rgb(hue, saturation, value):
    """hue in turns; all broadcast to (n, H, W). Returns (n, 3, H, W)."""
    channel = np.array([5, 3, 1], np.float32).reshape(1, 3, 1, 1)
    k = (channel + hue[:, None] * 6) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))
