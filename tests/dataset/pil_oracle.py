"""The augmentation by PIL, one image at a time: what the batched one must equal, and what it is timed beside."""

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from mdistiller.dataset.augment import CUTOUT_COLOUR, CUTOUT_MAX_SIDE, OPERATIONS_PER_IMAGE
from mdistiller.dataset.operations import operation_table


def affine(coefficients):
    """An operation of PIL_OPERATIONS, by the coefficients that it has for a magnitude, a width and a height."""
    return lambda image, value: image.transform(image.size, Image.Transform.AFFINE, coefficients(value, *image.size))


PIL_OPERATIONS = {
    "AutoContrast": lambda image, value: ImageOps.autocontrast(image),
    "Brightness": lambda image, value: ImageEnhance.Brightness(image).enhance(value),
    "Color": lambda image, value: ImageEnhance.Color(image).enhance(value),
    "Contrast": lambda image, value: ImageEnhance.Contrast(image).enhance(value),
    "Equalize": lambda image, value: ImageOps.equalize(image),
    "Identity": lambda image, value: image,
    "Posterize": lambda image, value: ImageOps.posterize(image, int(value)),
    "Rotate": lambda image, value: image.rotate(value),
    "Sharpness": lambda image, value: ImageEnhance.Sharpness(image).enhance(value),
    "ShearX": affine(lambda value, width, height: (1, value, 0, 0, 1, 0)),
    "ShearY": affine(lambda value, width, height: (1, 0, 0, value, 1, 0)),
    "Solarize": lambda image, value: ImageOps.solarize(image, value),
    "TranslateX": affine(lambda value, width, height: (1, 0, value * width, 0, 1, 0)),
    "TranslateY": affine(lambda value, width, height: (1, 0, 0, 0, 1, value * height)),
}


def cutout(image, side, x, y):
    """The SKD release's Cutout of a PIL image: a square of `side` pixels, by the point (x, y)."""
    left, top = int(max(0, x - side / 2)), int(max(0, y - side / 2))
    right, bottom = min(image.width, left + side), min(image.height, top + side)
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), CUTOUT_COLOUR)
    return image


class PlainDistortion:
    """The strong augmentation of one PIL image: two random operations, then cutout."""

    def __init__(self):
        self.choices = [(PIL_OPERATIONS[name], low, high) for name, (_, low, high) in operation_table().items()]

    def __call__(self, image):
        for _ in range(OPERATIONS_PER_IMAGE):
            operation, low, high = self.choices[np.random.randint(len(self.choices))]
            image = operation(image, np.random.uniform(low, high))
        return self.cutout(image)

    def cutout(self, image):
        side = np.random.uniform(0, CUTOUT_MAX_SIDE) * image.width
        return cutout(image, side, np.random.uniform(1, image.width), np.random.uniform(1, image.height))
